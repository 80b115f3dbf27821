"""Who it looks like: crops, the re-ID network, and each track's gallery of embeddings."""
