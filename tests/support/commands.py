"""Arguments that the tests of the command line share."""

QUICK = ["--rounds", "2", "--num-clients", "3", "--set", "matching_steps=2", "--set", 'model_args={"width":8}']
