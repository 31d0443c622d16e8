"""The reference model: a small OLMoE trained here, so that real routing is at hand without a download."""
