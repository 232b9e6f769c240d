"""Which instructions the kernels of this process use, and the number format that follows from it.

PyTorch, oneDNN and CTranslate2 take the newest instructions that the processor has, unless `ATEN_CPU_CAPABILITY`,
`ONEDNN_MAX_CPU_ISA` and `CT2_FORCE_CPU_ISA` hold them down.
"""

import os

import torch

# Of the values that oneDNN knows, those without instructions that multiply bfloat16.
_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}


def instructions() -> str:
    """What PyTorch's own kernels use: AVX512, AVX2, DEFAULT and so on."""
    return torch.backends.cpu.get_cpu_capability()


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions that multiply bfloat16, and none of the libraries is held back from them.

    Without them it goes by way of float32, at a third of float32's speed.
    """
    held_to = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return (
        torch.cpu._is_avx512_bf16_supported()
        and instructions().startswith("AVX512")
        and held_to.upper() not in _WITHOUT_BFLOAT16
    )


def fast_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 on GPUs and where this processor multiplies it natively, else float32."""
    on_gpu = torch.device(device).type != "cpu"
    return torch.bfloat16 if on_gpu or multiplies_bfloat16() else torch.float32
