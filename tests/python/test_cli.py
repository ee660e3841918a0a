"""The command: what it prints, writes and exits with."""

import json
import subprocess
import sys

import onnx
import pytest
from typer.testing import CliRunner

import flashonnx
from flashonnx.cli import COMMANDS, app

TARGET = """
import torch

class Causal(torch.nn.Module):
    def forward(self, q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

def make():
    return Causal().eval(), tuple(torch.randn(2, 4, 48, 32) for _ in range(3))

def with_options():
    module, args = make()
    return module, args, {"input_names": ["q", "k", "v"], "output_names": ["y"]}

def raises():
    raise RuntimeError("no weights here")

def wrong():
    return 3

number = 3
"""


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "target.py"
    path.write_text(TARGET)
    return path


def test_help_lists_every_command(run):
    result = run("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout
    assert "completion" not in result.stdout  # of the shell: no matter of a single command


def test_version(run):
    assert run("--version").stdout.strip() == flashonnx.__version__


def test_bad_usage_exits_with_two(run):
    assert run("nonsense").exit_code == 2
    assert run("fuse").exit_code == 2
    assert run("fuse", "a", "b", "--no-such-option").exit_code == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from flashonnx.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_module_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "flashonnx", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == flashonnx.__version__


def test_fuse_writes_the_model_and_its_report(run, attention_files, tmp_path):
    out = tmp_path / "fused.onnx"
    result = run("fuse", attention_files["unfused"], out, "--json", tmp_path / "r.json")
    assert result.exit_code == 0
    assert "1 of 1 attention sites fused" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["total"], report["fused"]) == (1, 1)
    assert [node.op_type for node in onnx.load(out).graph.node].count("FlashAttention") == 1
    assert onnx.load(out).functions
    assert run("validate", attention_files["unfused"], out, "--sites").exit_code == 0


def test_fuse_json_on_stdout_is_all_of_stdout(run, attention_files, tmp_path):
    result = run("fuse", attention_files["unfused"], tmp_path / "fused.onnx", "--json", "-", "--no-portable")
    assert json.loads(result.stdout)["fused"] == 1
    assert not onnx.load(tmp_path / "fused.onnx").functions


def almost_attention(path):
    """Softmax over the queries, which is no attention that the op can do."""
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.attribute[0].i = 2
    return model


def test_require_all_writes_nothing_and_exits_with_one(run, attention_files, tmp_path):
    onnx.save(almost_attention(attention_files["unfused"]), tmp_path / "almost.onnx")
    out = tmp_path / "fused.onnx"
    result = run("fuse", tmp_path / "almost.onnx", out, "--require-all", "--json", tmp_path / "r.json")
    assert result.exit_code == 1
    assert "nothing was written" in result.stderr
    assert not out.exists()
    assert json.loads((tmp_path / "r.json").read_text())["sites"][0]["fused"] is False
    assert run("fuse", tmp_path / "almost.onnx", out).exit_code == 0


def test_explain_names_what_stops_a_site(run, attention_files, tmp_path):
    assert "1 of 1 attention sites can be fused" in run("explain", attention_files["unfused"]).stdout
    onnx.save(almost_attention(attention_files["unfused"]), tmp_path / "almost.onnx")
    result = run("explain", tmp_path / "almost.onnx", "--json", "-")
    assert result.exit_code == 0
    (site,) = json.loads(result.stdout)["sites"]
    assert "axis 2" in site["reason"]
    assert "Softmax" in site["reason"]


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
@pytest.mark.parametrize("command", ["fuse", "explain", "validate"])
def test_unreadable_models_exit_with_two(run, attention_files, tmp_path, command, content):
    bad = tmp_path / "bad.onnx"
    if content is not None:
        bad.write_bytes(content)
    out = tmp_path / "out.onnx"
    others = {"fuse": [out], "explain": [], "validate": [attention_files["fused"]]}[command]
    result = run(command, bad, *others)
    assert result.exit_code == 2
    assert "bad.onnx" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_missing_folder_is_told_before_any_work(run, attention_files, tmp_path):
    result = run("fuse", attention_files["unfused"], tmp_path / "no" / "out.onnx")
    assert result.exit_code == 2
    assert "no such folder" in result.stderr
    result = run("validate", attention_files["unfused"], attention_files["fused"], "--html", tmp_path / "no" / "r.html")
    assert (result.exit_code, "no such folder" in result.stderr) == (2, True)


def test_validate_passes_fails_and_reports(run, attention_files, tmp_path):
    fused = attention_files["fused"]
    result = run(
        "validate", attention_files["unfused"], fused, "--json", tmp_path / "r.json", "--html", tmp_path / "r.html"
    )
    assert result.exit_code == 0
    assert "passed" in result.stdout
    assert json.loads((tmp_path / "r.json").read_text())["passed"] is True
    assert "<svg" in (tmp_path / "r.html").read_text()
    result = run("validate", attention_files["unmasked"], fused, "--json", "-")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["passed"] is False


def test_validate_against_pytorch(run, attention_files, target):
    assert run("validate", f"{target}:make", attention_files["fused"]).exit_code == 0


def test_validate_refuses_inputs_that_do_not_fit(run, attention_files, tmp_path):
    fused = attention_files["fused"]
    for options in (["--shape", "x=1"], ["--shape", "nonsense"], ["--dim", "a=b"], ["--inputs", tmp_path / "no.npz"]):
        result = run("validate", fused, fused, *options)
        assert result.exit_code == 2, options
        assert result.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "RuntimeError: no weights here"),
        ("wrong", "returned int"),
        ("number", "not callable"),
        ("absent", "has no absent"),
    ],
)
def test_targets_that_give_no_model(run, target, tmp_path, name, message):
    result = run("export", f"{target}:{name}", tmp_path / "out.onnx")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_target_that_cannot_be_imported(run, tmp_path):
    result = run("export", "no.such.module:make", tmp_path / "out.onnx")
    assert (result.exit_code, "cannot be imported" in result.stderr) == (2, True)
    result = run("export", "neither", tmp_path / "out.onnx")
    assert (result.exit_code, "'neither' is not MODULE:CALLABLE" in result.stderr) == (2, True)


def test_export(run, target, tmp_path):
    out = tmp_path / "out.onnx"
    result = run("export", f"{target}:with_options", out, "--require-all", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.stderr
    assert [node.op_type for node in onnx.load(out).graph.node].count("FlashAttention") == 1
    assert run("validate", f"{target}:make", out).exit_code == 0


def test_bench(run, tmp_path):
    result = run("bench", "--case", "1x2x32x16", "--causal", "--rounds", "3", "--json", tmp_path / "b.json")
    assert result.exit_code == 0, result.stderr
    assert "B1 H2 N32 D16 causal float32" in result.stdout
    timings = json.loads((tmp_path / "b.json").read_text())["timings"]
    assert len(timings) == 1
    assert f"{timings[0]['fma_share']:.2f}" in result.stdout
    for arguments in (["luck"], ["--case", "1x2"], ["--dtype", "int8"], ["--against", "nobody"], ["--device", "tpu"]):
        assert run("bench", *arguments).exit_code == 2, arguments


def test_info_says_which_kernel_and_why(run):
    result = run("info", "--case", "1x8x2048x64", "--causal", "--json", "-")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["case"] == "B1 H8 N2048 D64 causal float32"
    assert facts["kernel"].startswith("CPU")
    assert facts["build"]["compiler"]
    assert facts["packages"]["onnxruntime"]
    assert run("info", "--case", "x").exit_code == 2


def test_info_plans_for_gpus_that_are_elsewhere(run):
    arguments = ["--dtype", "float16", "--case", "1x8x2048x64", "--json", "-"]
    result = run("info", "--compute-capability", "8.0", "--compute-capability", "9.0", *arguments)
    assert result.exit_code == 0, result.stderr
    kernels = json.loads(result.stdout)["gpu_kernels"]
    assert kernels["8.0"].startswith("sm80, 128 x 128 tiles (not split: 2048 query rows per key/value head")
    assert kernels["9.0"].startswith("sm90, 128 x 128 tiles")
    unknown = run("info", "--compute-capability", "5.0", *arguments)
    assert "no GPU of compute capability 5.0 is known" in json.loads(unknown.stdout)["gpu_kernels"]["5.0"]
    assert run("info", "--compute-capability", "new").exit_code == 2


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["out.onnx", "--json", "out.onnx"], "two outputs cannot be one file"),
        (["out.onnx", "--json", "folder"], "it is a folder"),
        (["folder"], "it is a folder"),
    ],
)
def test_outputs_that_cannot_be_are_told_before_any_work(run, tmp_path, monkeypatch, outputs, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    result = run("fuse", "no-such-model.onnx", *outputs)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "device 'tpu' is not 'cpu' or 'cuda'"),
        (["--atol", "nan"], "atol is nan; allowed"),
        (["--rtol", "-1"], "rtol is -1.0; allowed"),
        (["--dim", "s=x"], "'s=x' is not a size of a dimension"),
    ],
)
def test_validate_refuses_options_that_mean_nothing(run, attention_files, options, message):
    result = run("validate", attention_files["unfused"], attention_files["fused"], *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_names_may_look_like_markup(run, attention_files, tmp_path):
    model = onnx.load(attention_files["unfused"])
    for index, node in enumerate(model.graph.node):
        node.name = f"[/b]{index}"
        node.output[:] = ["[/x]y" if name == model.graph.output[0].name else name for name in node.output]
    model.graph.output[0].name = "[/x]y"
    named, fused = tmp_path / "[bold]in.onnx", tmp_path / "[red]out.onnx"
    onnx.save(model, named)
    assert "[/b]" in run("fuse", named, fused).stdout
    result = run("validate", named, fused, "--sites")
    assert result.exit_code == 0, result.stderr
    assert all(text in result.stdout for text in ("[bold]in.onnx", "[red]out.onnx", "[/x]y"))
