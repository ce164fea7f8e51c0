"""Networks: (x, c_time, label) -> a tensor of the shape of x. They know nothing about diffusion.

A model's constructor takes ``shape`` (of one sample) and ``num_classes`` (0: unconditional) beside its own options.
"""
