"""What Triton compiles the CUDA kernels to, which needs no GPU: IEEE operations in the order written, nothing fused.

One fused multiply-add, flushed subnormal or approximate root, and a GPU's bits would not be the CPU's.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from zodist.kernels.rules import ADAM, MOMENTUM, SIGN
from zodist.kernels.tile import BFLOAT16, FLOAT16, FLOAT32
from zodist.noise import GAUSSIAN, RADEMACHER

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton: pip install triton", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zodist.kernels import cuda, cuda_matrix, cuda_moments, cuda_project, cuda_rules
from zodist.kernels.cuda_range import EXACT, WARPS

HOPPER = GPUTarget("cuda", 90, 32)
WORDS = {FLOAT32: "*u32", BFLOAT16: "*u16", FLOAT16: "*u16"}
PLAIN = {"mean": None, "curvature": None, "bounded": False}
DRESSED = {"bounded": True}
RANGE = {"starts": None, "aligned": True}

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "perturb, gaussian": (
        cuda._perturb,
        PLAIN
        | RANGE
        | {"kind": BFLOAT16, "out_kind": BFLOAT16, "law": GAUSSIAN, "several": 1, "keep": True, "tiles": 1},
    ),
    "perturb, signs": (
        cuda._perturb,
        PLAIN
        | RANGE
        | {"kind": BFLOAT16, "out_kind": BFLOAT16, "law": RADEMACHER, "several": 1, "keep": True, "tiles": 4},
    ),
    "rows, dressed, several bases": (
        cuda._perturb,
        DRESSED
        | {"kind": FLOAT16, "out_kind": FLOAT16, "law": GAUSSIAN, "several": 2, "keep": True}
        | {"tiles": 1, "aligned": False},
    ),
    "update, gaussian": (
        cuda._update,
        PLAIN | {"kind": BFLOAT16, "law": GAUSSIAN, "several": 1, "aligned": True, "tiles": 1},
    ),
    "update, dressed signs": (
        cuda._update,
        DRESSED | {"kind": FLOAT16, "law": RADEMACHER, "several": 2, "aligned": False, "tiles": 4},
    ),
    "digest": (cuda._digest, {"kind": BFLOAT16, "size": 4096}),
    "momentum": (
        cuda_rules._move,
        {"second": None, "rule": MOMENTUM, "kind": FLOAT32, "aligned": True},
    ),
    "adam": (cuda_rules._move, {"rule": ADAM, "kind": BFLOAT16, "aligned": True}),
    "rank one": (cuda_matrix._rank_one, RANGE | {"kind": BFLOAT16, "out_kind": BFLOAT16}),
    "product, gaussian": (
        cuda_matrix._product,
        {"kind": BFLOAT16, "out_kind": BFLOAT16, "law": GAUSSIAN, "some": True, "aligned": True},
    ),
    "update, float32": (
        cuda._update,
        PLAIN | {"kind": FLOAT32, "law": GAUSSIAN, "several": 0, "aligned": True, "tiles": 1},
    ),
    "sign": (
        cuda_rules._move,
        {"first": None, "second": None, "rule": SIGN, "kind": FLOAT16, "aligned": False},
    ),
    "product in float32": (
        cuda_matrix._product,
        {"words": None, "kind": FLOAT32, "out_kind": FLOAT32, "law": -1, "some": False, "aligned": False},
    ),
    "low-rank descent": (cuda_matrix._descend, {"kind": FLOAT16, "aligned": True}),
    "rank-one descent": (cuda_matrix._descend_outer, {"kind": BFLOAT16, "aligned": True}),
    "noises": (cuda_matrix._noises, {"law": GAUSSIAN}),
    "inner products": (cuda_project._along, {"rows": 32}),
    "projection": (
        cuda_project._shorten,
        RANGE | {"kind": BFLOAT16, "out_kind": BFLOAT16},
    ),
    "rows projected": (
        cuda_project._shorten,
        {"words": None, "kind": FLOAT32, "out_kind": FLOAT32, "aligned": False},
    ),
    "ratio, gaussian": (cuda_moments._ratio, {"law": GAUSSIAN, "aligned": True}),
    "ratio, signs": (cuda_moments._ratio, {"law": RADEMACHER, "aligned": False}),
}
POINTERS = {"starts": "*i64", "keys": "*i64", "sums": "*i64", "begins": "*i64"}


def ptx(kernel: Any, constants: dict[str, Any], options: dict[str, Any]) -> str:
    """The PTX of a kernel; ptxas must accept it too."""
    constants = dict(constants)
    kind = constants["kind"] if "kind" in constants else FLOAT32
    taken = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {}
    for param in kernel.params:
        if param.name in taken:
            signature[param.name] = "constexpr"
        elif param.annotation_type:
            signature[param.name] = param.annotation_type
        elif param.name in ("words", "outs"):
            signature[param.name] = WORDS[kind]
        else:
            signature[param.name] = POINTERS.get(param.name, "*fp32")
    made = triton.compile(
        ASTSource(kernel, signature, taken), target=HOPPER, options={"num_warps": WARPS, **options}
    )
    assert made.asm["cubin"]
    return made.asm["ptx"]


def operations(text: str) -> set[str]:
    """The instructions of some PTX that are not those of the source: fused, flushing, approximate or differently rounded."""
    found = set(re.findall(r"^\s+(?:@!?%\w+ )?([a-z][a-z0-9_]*(?:\.[a-z0-9_:]+)+)", text, re.M))
    wrong = re.compile(r"^fma|^mad\.\w*\.?f|\.ftz|\.approx|\.full\.|\.r[zmp]\.f32\.f|\.sat")
    return {name for name in found if wrong.search(name)}


@pytest.fixture(scope="module", autouse=True)
def assembler():
    folder = importlib.util.find_spec("triton.backends.nvidia")
    names = (
        [] if folder is None else [f"{place}/bin/ptxas" for place in folder.submodule_search_locations or ()]
    )
    if not any(Path(name).exists() for name in names):
        pytest.skip("this build of triton has no ptxas")


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_compiles_to_ieee_operations_as_written(name):
    kernel, constants = CASES[name]
    assert not operations(ptx(kernel, constants, EXACT))


def test_the_check_sees_what_it_looks_for():
    """The same kernel with Triton's fast options has all of it."""
    kernel, constants = CASES["rows, dressed, several bases"]
    found = operations(ptx(kernel, constants, {"enable_fp_fusion": True}))
    assert any(name.startswith("fma.rn") for name in found)
