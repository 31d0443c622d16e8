"""The collector: records what a Hugging Face MoE model's routers decide while it generates."""
