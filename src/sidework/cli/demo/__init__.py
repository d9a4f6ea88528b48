"""The demo: the main job on real input, with workers that are killed, and an answer that can be wrong."""
