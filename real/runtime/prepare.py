"""What is to be done before torch is used."""

import os

from traces.kit.errors import UserError


def prepare(threads: int) -> None:
    """Nothing is fetched, threads are set, a GPU's products give the same bits each time. UserError without torch."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS: one workspace, whatever the stream
    try:
        import torch
        import transformers  # noqa: F401 - here, so that its absence is told
    except ImportError as error:
        need = "pip install 'moe-offload-workbench[hf]'"
        raise UserError(f"real needs torch and transformers ({error}): {need}") from None
    # cuDNN's attention plans anew for each length of the KV cache, which takes longer than a pass.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if threads:
        torch.set_num_threads(threads)
