//! A network as data: nodes in the order of computation.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ops::{Attributes, Op, parse};
use crate::params::Params;
use crate::shape::Shape;

/// One operator in a network.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique; the first part of the names of its parameters.
    pub name: String,
    /// What it computes.
    pub op: Arc<dyn Op>,
    /// The nodes whose outputs it reads: all of them earlier.
    pub inputs: Vec<usize>,
    /// Rows of the table of parameters.
    pub parameters: Vec<usize>,
    /// Channels of its output.
    pub channels: usize,
}

impl Node {
    /// Whether the caller gives its value.
    pub fn is_input(&self) -> bool {
        self.op.kind() == "input"
    }
}

/// A valid network.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    /// Appends a node, adds its parameters to `params`, and returns its number.
    ///
    /// # Errors
    /// [`Error::Graph`] if the operator, an attribute, an input or the channels are not valid; [`Error::Parameter`] if
    /// the name is used twice.
    pub fn push(
        &mut self,
        name: &str,
        kind: &str,
        inputs: &[usize],
        attributes: Attributes,
        params: &mut Params,
    ) -> Result<usize> {
        let invalid = |message: String| Error::Graph { node: name.into(), message };
        let number = self.nodes.len();
        if let Some(later) = inputs.iter().find(|&&input| input >= number) {
            return Err(invalid(format!("expected inputs from nodes before {number}, got {later}")));
        }
        let op: Arc<dyn Op> = parse(kind, attributes).map_err(|message| invalid(format!("{kind}: {message}")))?.into();
        let channels: Vec<usize> = inputs.iter().map(|&input| self.nodes[input].channels).collect();
        let signature = op.signature(&channels).map_err(invalid)?;
        let parameters = signature.parameters.into_iter();
        let parameters = parameters
            .map(|parameter| params.add(format!("{name}.{}", parameter.suffix), parameter.shape, parameter.role))
            .collect::<Result<Vec<usize>>>()?;
        self.nodes.push(Node {
            name: name.into(),
            op,
            inputs: inputs.to_vec(),
            parameters,
            channels: signature.channels,
        });
        Ok(number)
    }

    /// The nodes in the order of computation.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes whose values the caller gives, in order.
    pub fn inputs(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&number| self.nodes[number].is_input()).collect()
    }

    /// The shape of every node's output, for inputs of these shapes.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the node that cannot work on what it would get.
    pub fn infer(&self, inputs: &[Shape]) -> Result<Vec<Shape>> {
        infer(&self.nodes, inputs)
    }
}

/// The shape of every node's output.
pub(super) fn infer(nodes: &[Node], inputs: &[Shape]) -> Result<Vec<Shape>> {
    let mut given = inputs.iter();
    let mut shapes: Vec<Shape> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let invalid = |message: String| Error::Shape { node: node.name.clone(), message };
        let shape = if node.is_input() {
            let shape = *given.next().ok_or_else(|| invalid("expected a value for every input".into()))?;
            if shape.c != node.channels || shape.is_empty() {
                return Err(invalid(format!(
                    "expected {} channels and no empty axis, got shape {shape}",
                    node.channels
                )));
            }
            shape
        } else {
            let of_inputs: Vec<Shape> = node.inputs.iter().map(|&input| shapes[input]).collect();
            node.op.infer(&of_inputs).map_err(invalid)?
        };
        if shape.checked_len().is_none() {
            let message = format!("an activation of shape {shape} cannot be addressed");
            return Err(Error::Memory { node: node.name.clone(), message });
        }
        shapes.push(shape);
    }
    Ok(shapes)
}
