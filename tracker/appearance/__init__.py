"""Appearance: crops, the re-ID network, and the gallery of embeddings of each track."""
