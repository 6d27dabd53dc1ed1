"""Plans to pixels, in the worker process; the only room that imports torch and diffusers."""
