"""Faster forms of a model's denoiser and decoder: the same arithmetic in fewer, larger GPU kernels.

``kernels`` holds the Triton kernels and ``operations`` their plain-torch counterparts; tests compare the two.
``layers`` builds ResNet and transformer blocks from either, of which ``denoiser`` and ``forms`` assemble diffusers'
UNet and decoder. ``transformer`` compiles the blocks of transformer models instead.
"""
