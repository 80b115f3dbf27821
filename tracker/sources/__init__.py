"""Where frames come from: files, folders, MOT sequences, webcams and streams."""
