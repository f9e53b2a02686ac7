"""Chaos: a real gateway, mirror, loop and Kafka under a steady load, broken in every way that we know, and the books read afterwards."""
