"""How good results are: MOT ground truth, CLEAR and identity measures."""
