"""The networks: motion diffusion model, LoRA, motion-in-context module, ST-GCN."""
