"""Training of the bundled person detector: data, network, loss, loop, export, evaluation. See __main__.py."""
