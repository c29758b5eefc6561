//! Everything that can go wrong, found before a plan is run. Running it cannot fail, but whoever watches may end it.

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
    /// More memory than can be addressed, or than there is.
    Memory {
        /// The node or parameter that needs it.
        node: String,
        /// How much, and for what.
        message: String,
    },
    /// A run was ended by whoever watches it.
    Stopped {
        /// The node that was next.
        node: String,
    },
}

impl Error {
    /// The system does not give `bytes` of memory.
    pub(crate) fn out_of_memory(node: &str, what: &str, bytes: usize) -> Self {
        let gigabytes = bytes as f64 / (1u64 << 30) as f64;
        Self::Memory { node: node.into(), message: format!("cannot allocate {gigabytes:.3} GB for {what}") }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph { node, message } | Self::Shape { node, message } | Self::Memory { node, message } => {
                write!(f, "{node}: {message}")
            }
            Self::Parameter { name, message } => write!(f, "{name}: {message}"),
            Self::Stopped { node } => write!(f, "{node}: the run was stopped before it"),
        }
    }
}

impl std::error::Error for Error {}
