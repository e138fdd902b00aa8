"""Architectures of Stable Diffusion, told from the width of text in a file's tensors."""

#: Width of the text that the UNet's cross attention reads, in a checkpoint or in a LoRA for it -> architecture.
BY_CROSS_ATTENTION = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl_refiner"}
#: Width of one token's vector in a textual inversion -> architecture. SDXL has two encoders: of CLIP-G's 1280 only it
#: and its refiner know; CLIP-L's 768 alone is Stable Diffusion 1.
BY_TOKEN = {768: "sd1", 1024: "sd2", 1280: "sdxl"}
