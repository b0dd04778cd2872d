"""nn.Modules: tensors in, tensors out."""
