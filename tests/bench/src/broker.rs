//! What is published to: a topic or queue of the canned server.

/// The kinds of destinations that are measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Broker {
    /// A standard SNS topic.
    Sns,
    /// A FIFO topic.
    Fifo,
    /// A standard SQS queue.
    Sqs,
}

impl Broker {
    pub(crate) const ALL: [Self; 3] = [Self::Sns, Self::Fifo, Self::Sqs];

    /// How `--only` and the command line name it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Sns => "sns",
            Self::Fifo => "fifo",
            Self::Sqs => "sqs",
        }
    }

    /// How the table names it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Sns => "SNS",
            Self::Fifo => "SNS FIFO",
            Self::Sqs => "SQS",
        }
    }

    /// Its address, as a configuration would give it.
    pub(crate) fn address(self, endpoint: &str) -> String {
        match self {
            Self::Sns => "arn:aws:sns:us-east-1:000000000000:bench".to_owned(),
            Self::Fifo => "arn:aws:sns:us-east-1:000000000000:bench.fifo".to_owned(),
            Self::Sqs => format!("{endpoint}/000000000000/bench"),
        }
    }
}
