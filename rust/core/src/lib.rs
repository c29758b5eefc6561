//! Kernels, graph planner and executor of resnet_rs.
