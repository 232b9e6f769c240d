"""The dtype that follows from the CPU instructions in use."""

import pytest
import torch

from model_core.kernels import fast_dtype, instructions


@pytest.fixture(autouse=True)
def newest_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bfloat16 multiplication, without restrictions."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("held_to", ["", "AVX512_CORE_BF16", "AVX512_CORE_AMX", "ALL"])
def test_bfloat16_is_used_if_kernels_may_multiply_it(held_to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", held_to)
    assert fast_dtype() == torch.bfloat16


@pytest.mark.parametrize("held_to", ["AVX2", "avx512_core_vnni"])
def test_float32_is_used_if_onednn_is_restricted(held_to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", held_to)
    assert fast_dtype() == torch.float32
    assert fast_dtype("cuda") == torch.bfloat16


def test_float32_is_used_if_pytorch_is_restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert instructions() == "AVX2"
    assert fast_dtype() == torch.float32


def test_float32_is_used_on_a_processor_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert fast_dtype() == torch.float32
