"""What is known of Hugging Face MoE models: families, routers, scoring laws, loading, devices, shapes."""
