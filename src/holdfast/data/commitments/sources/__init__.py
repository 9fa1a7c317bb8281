"""Readers of datasets as (key, fields), one file a format."""
