"""Gramine manifests: what is generated has none of the holes that the linter finds in what was published."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import HoldfastError, InvalidConfig, MissingDevice, UnreadableArtifact
from holdfast.shielding.worlds import Enclave, GramineWorld, Launch, enclave_quote, lint, manifest

# a template with the seven holes of the published one, in words of our own
PUBLISHED = """
{% set here = "x" %}
loader.entrypoint = "file:{{ gramine.libos }}"
libos.entrypoint = "{{ entrypoint }}"
loader.insecure__use_cmdline_argv = true
loader.log_level = "{{ log_level }}"
fs.mounts = [
  { path = "/usr/lib", uri = "file:/usr/lib" },
  { path = "/home/somebody/conda/lib", uri = "file:/home/somebody/conda/lib" },
  { type = "tmpfs", path = "/tmp" },
]
sgx.enclave_size = "4G"
sgx.max_threads = 32
sgx.edmm_enable = {{ 'true' if env.get('EDMM') else 'false' }}
sgx.trusted_files = [
  "file:{{ gramine.runtimedir() }}/",
  "file:/usr/lib/",
  "file:/home/somebody/conda/lib/",
  "file:client.py",
]
sgx.allowed_files = ["file:client.py", "file:result.txt"]
"""
SEVEN = {
    "host-arguments", "allowed-and-trusted", "no-attestation", "wide-trust", "home-path", "nothing-sealed",
    "no-version",
}  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> tuple[Launch, Enclave]:
    code = tmp_path / "code"
    code.mkdir()
    (code / "serve.py").write_text("print(1)")
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "serve.pyc").write_bytes(b"x")
    python = tmp_path / "python3"
    python.write_bytes(b"ELF")
    launch = Launch(module="serve", arguments=("--port", 'a "quoted" one'), measured={"code": code}, path=("code",))
    return launch, Enclave(interpreter=python)


def parsed(text: str) -> dict[str, Any]:
    return tomllib.loads(text.replace("{{ gramine.libos }}", "/libos").replace("{{ gramine.runtimedir() }}", "/run"))


def test_the_linter_finds_the_seven_holes_of_the_published_template():
    assert {finding.rule for finding in lint(PUBLISHED)} >= SEVEN
    both = [finding.key for finding in lint(PUBLISHED) if finding.rule == "allowed-and-trusted"]
    assert both == ["sgx.allowed_files: client.py"]
    assert all(finding.why and finding.key for finding in lint(PUBLISHED))


def test_what_is_generated_has_none(made: tuple[Launch, Enclave]):
    launch, enclave = made
    assert lint(manifest(launch, enclave)) == ()


def test_arguments_files_and_versions_stand_in_the_manifest(made: tuple[Launch, Enclave]):
    launch, enclave = made
    values = parsed(manifest(launch, enclave))
    assert values["loader"]["argv"][-4:] == ["-m", "serve", "--port", 'a "quoted" one']
    assert "insecure__use_cmdline_argv" not in values["loader"]
    assert values["sgx"]["remote_attestation"] == "dcap"
    assert values["sgx"]["debug"] is False
    assert (values["sgx"]["isvprodid"], values["sgx"]["isvsvn"]) == (1, 1)
    assert "allowed_files" not in values["sgx"]
    trusted = {item["uri"]: item["sha256"] for item in values["sgx"]["trusted_files"] if isinstance(item, dict)}
    file = (launch.measured["code"] / "serve.py").resolve()
    assert trusted[f"file:{file}"] == hashlib.sha256(b"print(1)").hexdigest()
    assert not [uri for uri in trusted if "__pycache__" in uri]
    sealed = next(item for item in values["fs"]["mounts"] if item.get("type") == "encrypted")
    assert sealed["key_name"] == "_sgx_mrenclave"


def test_changed_code_changes_the_manifest(made: tuple[Launch, Enclave]):
    launch, enclave = made
    before = manifest(launch, enclave)
    assert manifest(launch, enclave) == before
    (launch.measured["code"] / "serve.py").write_text("print(2)")
    assert manifest(launch, enclave) != before


def test_debug_is_said_only_when_asked_for_and_then_found(made: tuple[Launch, Enclave]):
    launch, enclave = made
    text = manifest(launch, Enclave(interpreter=enclave.interpreter, debug=True))
    assert [finding.rule for finding in lint(text)] == ["debug"]


def test_a_shared_folder_or_a_name_for_the_template_language_is_refused(made: tuple[Launch, Enclave], tmp_path: Path):
    launch, enclave = made
    for wrong in (
        Launch(module="serve", measured=launch.measured, path=("code",), shared=tmp_path),
        Launch(module="serve", measured=launch.measured, path=("code",), arguments=("{{ entrypoint }}",)),
        Launch(module="serve", measured=launch.measured, path=("code",), arguments=('x"\n[sgx]\ndebug = true',)),
    ):
        with pytest.raises(InvalidConfig):
            manifest(wrong, enclave)
    with pytest.raises(UnreadableArtifact, match="not there"):
        manifest(launch, Enclave(interpreter=tmp_path / "absent"))


@pytest.mark.parametrize("wrong", [{"size": "3G"}, {"size": "4"}, {"version": 0}, {"threads": 0}, {"product": 1 << 16}])
def test_an_enclave_that_cannot_be_is_refused(wrong: dict[str, Any]):
    with pytest.raises(InvalidConfig):
        Enclave(interpreter=Path("python3"), **wrong)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("sgx.debug = true", "debug"),
        ('sgx.allowed_files = ["file:/data"]', "allowed-file"),
        ("loader.insecure__use_host_env = true", "insecure-option"),
        ("sys.insecure__allow_eventfd = true", "insecure-option"),
        ('fs.insecure__keys.default = "00"', "insecure-option"),
        ('sgx.file_check_policy = "allow_all_but_log"', "unchecked-files"),
        ('loader.log_level = "trace"', "talkative"),
        ("loader.env.SECRET = { passthrough = true }", "host-environment"),
        ('sgx.trusted_files = ["file:/usr"]', "wide-trust"),
        ('sgx.allowed_files = [{ uri = "file:/code/a" }]\nsgx.trusted_files = ["file:/code/"]', "allowed-and-trusted"),
    ],
)
def test_each_further_hole_is_found(line: str, rule: str):
    assert rule in {finding.rule for finding in lint(line)}


@settings(deadline=None)
@given(st.text(max_size=200))
def test_the_linter_raises_nothing_but_our_errors(text: str):
    try:
        lint(text)
    except HoldfastError:
        return


def test_without_gramine_the_world_says_what_is_missing(made: tuple[Launch, Enclave]):
    if shutil.which("gramine-sgx"):
        pytest.skip("Gramine is installed here")
    launch, enclave = made
    with pytest.raises(MissingDevice, match="no gramine-manifest here"):
        GramineWorld(launch, enclave=enclave, key=Path("key.pem"))
    with pytest.raises(MissingDevice, match="does not run in an enclave"):
        enclave_quote(bytes(32))
