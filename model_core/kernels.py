"""CPU instruction sets that the kernels of this process use, and the dtype to compute in.

PyTorch, oneDNN and CTranslate2 use the newest instruction set of the processor, unless `ATEN_CPU_CAPABILITY`,
`ONEDNN_MAX_CPU_ISA` and `CT2_FORCE_CPU_ISA` limit them.
"""

import os

import torch

# Values of oneDNN without bfloat16 instructions.
_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}


def instructions() -> str:
    """The instruction set of PyTorch's own kernels: AVX512, AVX2, DEFAULT and so on."""
    return torch.backends.cpu.get_cpu_capability()


def supports_bfloat16() -> bool:
    """Whether this processor has bfloat16 instructions and no library is limited to an instruction set without them.

    Without them, bfloat16 is emulated in float32, at a third of float32's speed.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return (
        torch.cpu._is_avx512_bf16_supported()
        and instructions().startswith("AVX512")
        and limit.upper() not in _WITHOUT_BFLOAT16
    )


def fast_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 on GPUs and on processors with bfloat16 instructions, else float32."""
    on_gpu = torch.device(device).type != "cpu"
    return torch.bfloat16 if on_gpu or supports_bfloat16() else torch.float32
