//! Everything that can go wrong, found while a network is built or planned. Running a plan cannot fail.

use std::fmt;

/// The result of building or planning.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, and at which node or parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The description of a network is not valid.
    Graph {
        /// The node.
        node: String,
        /// What was expected and what came.
        message: String,
    },
    /// An input does not fit the network.
    Shape {
        /// The node that cannot take what it is given.
        node: String,
        /// What was expected and what came.
        message: String,
    },
    /// There is no parameter of that name, or it has another shape.
    Parameter {
        /// The parameter.
        name: String,
        /// What was expected and what came.
        message: String,
    },
    /// More memory than can be addressed.
    Memory {
        /// The node or parameter that needs it.
        node: String,
        /// How much.
        message: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph { node, message } | Self::Shape { node, message } | Self::Memory { node, message } => {
                write!(f, "{node}: {message}")
            }
            Self::Parameter { name, message } => write!(f, "{name}: {message}"),
        }
    }
}

impl std::error::Error for Error {}
