//! Gradients of every algorithm against finite differences.

use crate::ops::Value;
use crate::ops::trial::{Trial, op, pairs, triple};
use crate::shape::Shape;
use crate::window::Window;

fn int(value: usize) -> Value {
    Value::Int(value as i64)
}

fn check(input: Shape, filters: usize, groups: usize, window: Window) {
    let attributes = [
        ("filters", int(filters)),
        ("groups", int(groups)),
        ("kernel", triple(window.kernel)),
        ("stride", triple(window.stride)),
        ("dilation", triple(window.dilation)),
        ("padding", pairs(window.padding)),
        ("bias", Value::Bool(true)),
    ];
    Trial::new(op("conv", &attributes), &[input]).check_gradients(1e-1, 1e-4);
}

fn check_transposed(input: Shape, filters: usize, groups: usize, window: Window, output_padding: [usize; 3]) {
    let attributes = [
        ("filters", int(filters)),
        ("groups", int(groups)),
        ("kernel", triple(window.kernel)),
        ("stride", triple(window.stride)),
        ("padding", pairs(window.padding)),
        ("output_padding", triple(output_padding)),
        ("bias", Value::Bool(true)),
    ];
    Trial::new(op("conv_transpose", &attributes), &[input]).check_gradients(1e-1, 1e-4);
}

fn window(kernel: [usize; 3], stride: [usize; 3], dilation: [usize; 3], padding: [[usize; 2]; 3]) -> Window {
    Window::new(kernel, stride, dilation, padding).unwrap()
}

#[test]
fn of_plain_convolutions() {
    let same = [[0; 2], [1; 2], [1; 2]];
    check(Shape::new(2, [1, 9, 11], 20), 37, 1, window([1, 3, 3], [1; 3], [1; 3], same));
    check(Shape::new(1, [1, 17, 19], 64), 48, 1, window([1, 3, 3], [1; 3], [1; 3], same));
    check(Shape::new(2, [1, 9, 11], 17), 5, 1, window([1; 3], [1; 3], [1; 3], [[0; 2]; 3]));
    check(Shape::new(1, [5, 6, 7], 9), 16, 1, window([3; 3], [1; 3], [1; 3], [[1; 2]; 3]));
    check(Shape::new(3, [1, 1, 1], 40), 33, 1, window([1; 3], [1; 3], [1; 3], [[0; 2]; 3]));
}

#[test]
fn of_strided_and_dilated_convolutions() {
    let same = [[0; 2], [1; 2], [1; 2]];
    check(Shape::new(2, [1, 9, 12], 6), 18, 1, window([1, 3, 3], [1, 2, 2], [1; 3], same));
    check(Shape::new(1, [1, 13, 16], 3), 20, 1, window([1, 7, 7], [1, 2, 2], [1; 3], [[0; 2], [3; 2], [3; 2]]));
    check(Shape::new(1, [1, 9, 8], 16), 10, 1, window([1; 3], [1, 2, 2], [1; 3], [[0; 2]; 3]));
    check(Shape::new(1, [6, 5, 9], 4), 8, 1, window([3, 2, 5], [2, 1, 3], [1; 3], [[1; 2], [0, 1], [2; 2]]));
    check(Shape::new(1, [1, 12, 9], 8), 12, 1, window([1, 3, 3], [1; 3], [1, 2, 3], [[0; 2], [2; 2], [3; 2]]));
    check(Shape::new(1, [1, 12, 9], 5), 7, 1, window([1, 3, 2], [1, 2, 3], [1, 3, 2], [[0; 2], [2; 2], [1, 0]]));
    check(Shape::new(1, [1, 3, 4], 2), 3, 1, window([1, 2, 2], [1; 3], [1; 3], [[0; 2], [3; 2], [0, 4]]));
}

#[test]
fn of_grouped_convolutions() {
    let same = [[0; 2], [1; 2], [1; 2]];
    for (channels, filters, groups) in [(32, 32, 8), (32, 32, 32), (64, 64, 8), (64, 64, 4), (12, 18, 3), (8, 16, 2)] {
        check(Shape::new(2, [1, 6, 7], channels), filters, groups, window([1, 3, 3], [1; 3], [1; 3], same));
        check(Shape::new(1, [1, 7, 6], channels), filters, groups, window([1, 3, 3], [1, 2, 2], [1; 3], same));
    }
    check(Shape::new(1, [4, 5, 3], 32), 32, 8, window([3; 3], [1; 3], [1; 3], [[1; 2]; 3]));
}

#[test]
fn of_transposed_convolutions() {
    let none = [[0; 2]; 3];
    let plain = |kernel, stride, padding| window(kernel, stride, [1; 3], padding);
    check_transposed(Shape::new(2, [1, 5, 7], 8), 9, 1, plain([1, 2, 2], [1, 2, 2], none), [0; 3]);
    let same = [[0; 2], [1; 2], [1; 2]];
    check_transposed(Shape::new(1, [1, 5, 7], 17), 6, 1, plain([1, 4, 4], [1, 2, 2], same), [0; 3]);
    check_transposed(Shape::new(1, [3, 4, 5], 8), 4, 2, plain([3; 3], [2; 3], [[1; 2]; 3]), [1; 3]);
    check_transposed(Shape::new(1, [1, 4, 5], 3), 4, 1, plain([1, 1, 2], [1, 2, 4], none), [0, 1, 3]);
}
