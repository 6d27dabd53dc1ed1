"""Where loaded parts are, on the GPU, in host memory or on disk; and how they get there."""
