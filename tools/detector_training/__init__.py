"""Training of the person detector in the box: data, network, loss, loop, export, evaluation. See __main__.py."""
