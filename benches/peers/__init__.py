"""The libraries that resnet_rs is measured against, all fed from our own graph."""
