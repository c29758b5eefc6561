"""Training: what `Model.compile` and `Model.fit` are made of.

`Trainable` is the part of `Model` that trains; the modules `optimizers`, `schedules`, `losses`, `metrics`, `callbacks`
and `data` are what users name, as `resnet_rs.optimizers` and so on. Gradients, losses, optimisers and augmentation are
computed by the engine; what is here decides when, and writes down what came out.
"""
