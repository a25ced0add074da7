"""The kernels are compiled for devices that are not here, by the compiler that Triton brings."""

import os
import re
import shutil
import subprocess

import pytest

triton = pytest.importorskip("triton", reason="the package triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter compiles nothing", allow_module_level=True)

pytest.importorskip("triton.tools.tensor_descriptor", reason="triton is older than 3.4")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from mxmclr_plugin.loss.kernels.triton.cuts import EXACT_CUTS, default_cuts  # noqa: E402
from mxmclr_plugin.loss.kernels.triton.kernels import (  # noqa: E402
    finish_kernel,
    kept_weights_kernel,
    logsumexp_kernel,
    weights_kernel,
)
from mxmclr_plugin.loss.kernels.triton.measured import MEASURED  # noqa: E402
from mxmclr_plugin.loss.kernels.triton.relation_kernels import (  # noqa: E402
    relation_rows_kernel,
    shares_kernel,
)

KERNELS = {
    "logsumexp": logsumexp_kernel,
    "weights": weights_kernel,
    "running_logsumexp": logsumexp_kernel,
    "running_weights": weights_kernel,
    "kept_weights": kept_weights_kernel,
}
SHARED_BYTES = {90: 227 * 1024, 80: 99 * 1024}  # what is tried off Hopper must fit smaller cards
WHOLE_NUMBERS = "start0 start1 end0 end1 width span kept_end kept_stride stride"
NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def source(name, dtype, cut, variant):
    """A kernel with the types and constants of one call."""
    kernel = KERNELS[name]
    constants = dict(
        cut.constants,
        SKIP_SELF=variant["alone"],
        PRECISION=variant["precision"],
        PLAIN=not name.startswith("running"),
        RANGE=64,
        INTERPRETED=False,
        ONLY_OWN=variant["only_own"],
        GROUP=8,
        TILES=8 if variant["only_own"] else 1,
    )
    if constants["PLAIN"]:
        constants["bound"] = None
    if dtype != "bf16":
        constants["kept"] = None
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    blocks = {
        "z0": f"tensordesc<{dtype}[{cut.rows}, {cut.inner}]>",
        "z1": f"tensordesc<{dtype}[{cut.columns}, {cut.inner}]>",
        "out": f"tensordesc<{dtype}[{cut.rows}, {cut.columns}]>",
    }
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument == "kept" or (argument == "out" and name == "kept_weights"):
            signature[argument] = "*bf16"
        elif argument in blocks:
            signature[argument] = blocks[argument]
        elif argument.startswith(("index", "least", "most")):
            signature[argument] = "*i64"
        elif argument in WHOLE_NUMBERS.split():
            signature[argument] = "i32"
        else:
            signature[argument] = "*fp32"
    aligned = {
        (kernel.arg_names.index(argument),): [["tt.divisibility", 16]]
        for argument in ("width", "kept", "kept_stride", "out", "stride")
        if signature.get(argument, "constexpr") in ("i32", "*bf16")
    }
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)


def compiled(name, dtype, capability, cut, **variant):
    variant = {"alone": False, "precision": "ieee", "only_own": False} | variant
    try:
        return triton.compile(
            source(name, dtype, cut, variant),
            target=GPUTarget("cuda", capability, 32),
            options={key: x for key, x in cut.constants.items() if "BLOCK" not in key},
        )
    except (FileNotFoundError, TypeError) as error:
        pytest.skip(f"this version of triton cannot compile without a device: {error}")


def cuts_of(dtype, capability, precision):
    """Cuts by kernel: the default ones, and those of measured devices."""
    if dtype == "fp32" and precision == "ieee":
        yield from EXACT_CUTS.items()
        return
    yield from default_cuts(4 if dtype == "fp32" else 2, capability // 10).items()
    for of_device in MEASURED.values() if capability == 90 else ():
        if NAMES[dtype] in of_device:
            yield from of_device[NAMES[dtype]].cuts.items()


@pytest.mark.parametrize("name", KERNELS)
def test_default_cut_compiles(name):
    cut = default_cuts(2, 8)[name]
    kernel = compiled(name, "bf16", 80, cut, alone=True, only_own=True)
    assert ("mma.sync" in kernel.asm["ptx"]) == (name != "kept_weights")
    assert kernel.metadata.shared <= SHARED_BYTES[80]


@pytest.mark.parametrize("name", ["logsumexp", "weights"])
def test_float32_is_multiplied_in_float32_unless_tf32_is_allowed(name):
    cut = EXACT_CUTS[name]
    assert "mma.sync" not in compiled(name, "fp32", 80, cut).asm["ptx"]
    cut = default_cuts(4, 8)[name]
    assert "tf32" in compiled(name, "fp32", 80, cut, precision="tf32").asm["ptx"]


@pytest.mark.parametrize("capability", [90, 80])
@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        (relation_rows_kernel, {"STANDARDIZE": True, "BLOCK": 16384}),
        (shares_kernel, {"BOTH": True, "BLOCK_M": 8, "BLOCK_N": 256}),
        (finish_kernel, {"BLOCK": 512, "INTERPRETED": False}),
    ],
    ids=["rows", "shares", "finish"],
)
def test_the_other_kernels_compile(kernel, constants, capability):
    signature = dict.fromkeys(kernel.arg_names, "*fp32")
    signature |= dict.fromkeys(constants, "constexpr")
    types = {"instances": "*i64", "place": "*i64", "kinds": "*i8", "raw": "*bf16"}
    types["out"] = "*bf16" if "raw" in signature else "*fp16"
    types |= {name: "i32" for name in signature if name.endswith("stride")}
    types |= dict.fromkeys(("n", "rows_end", "width"), "i32")
    types |= {"temperature": "fp32", "alike": "fp32"}
    signature |= {key: of for key, of in types.items() if key in signature}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    try:
        target = GPUTarget("cuda", capability, 32)
        assert triton.compile(source, target=target, options={"num_warps": 16}).asm["ptx"]
    except (FileNotFoundError, TypeError) as error:
        pytest.skip(f"this version of triton cannot compile without a device: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("capability", [90, 80])
@pytest.mark.parametrize("dtype", NAMES)
def test_every_cut_compiles_and_fits_its_device(dtype, capability, tmp_path):
    tool = shutil.which("cuobjdump", path=_tools())
    for precision in ("ieee", "tf32") if dtype == "fp32" else ("ieee",):
        for name, cut in cuts_of(dtype, capability, precision):
            if name == "kept_weights" and dtype != "bf16":
                continue  # nothing is kept
            for alone in (False, True):
                kernel = compiled(name, dtype, capability, cut, precision=precision, alone=alone)
                assert kernel.metadata.shared <= SHARED_BYTES[capability]
                if dtype != "fp32" and capability == 90 and name != "kept_weights":
                    assert "wgmma.mma_async" in kernel.asm["ptx"]
                usage = ""
                if tool is not None:
                    binary = tmp_path / "kernel.cubin"
                    binary.write_bytes(kernel.asm["cubin"])
                    usage = subprocess.run(
                        [tool, "-res-usage", binary], capture_output=True, text=True, check=True
                    ).stdout
                    spilled = int(re.search(r"STACK:(\d+)", usage)[1])
                    assert spilled <= 1024, (name, dtype, capability, cut)
                    usage = " ".join(re.findall(r"(?:REG|STACK):\d+", usage))
                print(
                    *(name, dtype, precision, capability, alone, cut),
                    *(kernel.metadata.shared, usage),
                )


def _tools():
    return os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")  # noqa: PTH118, PTH120
