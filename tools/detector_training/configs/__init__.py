"""Configs that come with the tool."""
