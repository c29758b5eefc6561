"""ResNet, ResNeXt, SE-ResNet networks on CPUs, in 2D and 3D: Rust kernels, NumPy in and out."""
