"""Where results go: MOT text, annotated video, the closing summary."""
