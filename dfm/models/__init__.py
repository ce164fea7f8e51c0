"""Networks: model(x, c_time, label) -> a tensor of x's shape. They know nothing of diffusion."""
