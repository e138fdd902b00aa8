"""Faster forms of a model's denoiser and decoder: the same arithmetic in fewer, larger GPU kernels.

``kernels`` holds the Triton kernels and ``operations`` their plain-torch counterparts, which tests compare; ``layers``
builds ResNet and transformer blocks from either. ``denoiser`` and ``forms`` assemble diffusers' UNet and decoder from
them.
"""
