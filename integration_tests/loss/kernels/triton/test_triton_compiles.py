"""The kernels are compiled for devices that are not here, by the compiler that Triton brings."""

import os
import re
import shutil
import subprocess

import pytest

triton = pytest.importorskip("triton", reason="the package triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from mxmclr_plugin.loss.kernels.triton.tuning import KERNELS, configs  # noqa: E402

SHARED_BYTES = {90: 227 * 1024, 80: 99 * 1024}  # what is tried off Hopper must fit smaller cards
OF_DTYPE = {"z0", "z1", "left", "right"}
WHOLE_NUMBERS = "n_0 n_1 m n k width span diagonal size_class"


def source(name, dtype, config, variant):
    """A kernel with the types and constants of one call."""
    kernel = KERNELS[name]
    constants = dict(config.kwargs) | {"EVEN_K": variant["even"]}
    if name != "product":
        constants |= {"SKIP_SELF": variant["alone"], "PRECISION": variant["precision"]}
    if name == "product":
        constants["stride_left_m" if variant["alone"] else "stride_left_k"] = 1
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in OF_DTYPE or (argument == "out" and name == "weights"):
            signature[argument] = f"*{dtype}"
        elif argument.startswith("index"):
            signature[argument] = "*i64"
        elif argument in WHOLE_NUMBERS.split() or argument.startswith("stride"):
            signature[argument] = "i32"
        else:
            signature[argument] = "*fp32"
    aligned = {
        (k,): [["tt.divisibility", 16]]
        for k, argument in enumerate(kernel.arg_names)
        if signature[argument].startswith("*") or argument.startswith("stride")
    }
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)


def compiled(name, dtype, capability, config, **variant):
    variant = {"even": True, "alone": False, "precision": "ieee"} | variant
    try:
        return triton.compile(
            source(name, dtype, config, variant),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": config.num_warps, "num_stages": config.num_stages},
        )
    except (FileNotFoundError, TypeError) as error:
        pytest.skip(f"this version of triton cannot compile without a device: {error}")


def cuts(kernels, dtypes, capabilities):
    for capability in capabilities:
        for dtype in dtypes:
            for name in kernels:
                itemsize = 4 if dtype == "fp32" else 2
                if (name, itemsize) != ("product", 4):
                    for config in configs(name, itemsize, capability == 90):
                        yield name, dtype, capability, config


@pytest.mark.parametrize("name", KERNELS)
def test_first_cut_compiles(name):
    config = configs(name, 2, hopper=False)[0]
    kernel = compiled(name, "bf16", 80, config, alone=True, even=False)
    assert "mma.sync" in kernel.asm["ptx"]
    assert kernel.metadata.shared <= SHARED_BYTES[80]


@pytest.mark.parametrize("name", ["logsumexp", "weights"])
def test_float32_is_multiplied_in_float32_unless_tf32_is_allowed(name):
    config = configs(name, 4, hopper=False)[0]
    assert "mma.sync" not in compiled(name, "fp32", 80, config).asm["ptx"]
    assert "tf32" in compiled(name, "fp32", 80, config, precision="tf32").asm["ptx"]


@pytest.mark.slow
def test_every_cut_compiles_and_fits_its_device(tmp_path):
    tool = shutil.which("cuobjdump", path=_tools())
    for name, dtype, capability, config in cuts(KERNELS, ("bf16", "fp16", "fp32"), (90, 80)):
        for precision in ("ieee", "tf32") if dtype == "fp32" else ("ieee",):
            for alone in (False, True):
                kernel = compiled(name, dtype, capability, config, precision=precision, alone=alone)
                assert kernel.metadata.shared <= SHARED_BYTES[capability]
                if dtype != "fp32" and capability == 90:
                    assert "wgmma.mma_async" in kernel.asm["ptx"]
                usage = ""
                if tool is not None:
                    binary = tmp_path / "kernel.cubin"
                    binary.write_bytes(kernel.asm["cubin"])
                    usage = subprocess.run(
                        [tool, "-res-usage", binary], capture_output=True, text=True, check=True
                    ).stdout
                    spilled = int(re.search(r"STACK:(\d+)", usage)[1])
                    assert spilled <= 512, (name, dtype, capability, config)
                    usage = " ".join(re.findall(r"(?:REG|STACK):\d+", usage))
                print(
                    name, dtype, precision, capability, alone, config, kernel.metadata.shared, usage
                )


def _tools():
    return os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")  # noqa: PTH118, PTH120
