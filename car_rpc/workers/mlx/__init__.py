"""The engine for folders of MLX weights, on mlx-lm's batch generator."""
