"""Layers: they know tensors and nothing of reinforcement learning."""
