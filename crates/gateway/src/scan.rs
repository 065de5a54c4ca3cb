//! The effect of a statement on its session, as far as its words tell.
//!
//! A session whose compute has died is made anew from the statements that have set it up
//! (`history.rs`). A statement of which it is not certain what it has left in the session is
//! unknown, and makes the session one that does not survive.
//!
//! Text arrives in parts of any size, and is read once. Only words and punctuation outside
//! of comments and quotes count.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

/// The longest word that is known, and one byte.
const WORD_BYTES: usize = 24;
/// The longest statement that is kept.
const KEPT_BYTES: usize = 4 << 10;

/// The effect of a statement on its session, if it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that lasts.
    Nothing,
    /// The same as it does when it is executed again.
    Repeatable,
    /// That is not known.
    Unknown,
}

/// Reads a statement.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// A backslash in quotes takes the next byte with it.
    backslashes: bool,
    at: At,
    /// The last byte outside of comments and quotes, unless it belonged to a word.
    last: u8,
    /// The word that is being read.
    word: [u8; WORD_BYTES],
    word_bytes: usize,
    words: usize,
    kind: Kind,
    unknown: bool,
    /// A semicolon was read.
    ended: bool,
    /// It has more than names, numbers and texts.
    has_expressions: bool,
    /// It sets several things.
    has_commas: bool,
    /// It is about accounts or roles.
    is_role: bool,
    /// It has set the isolation of transactions by a variable's name.
    has_isolation: bool,
    /// Behind `LAST_INSERT_ID`, and its parenthesis.
    argument: Argument,
    /// The statement, as long as it may have to be executed again.
    text: Option<Vec<u8>>,
}

/// A place behind `LAST_INSERT_ID`, which with an argument sets what it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Argument {
    Elsewhere,
    Named,
    Opened,
}

/// A place in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Code,
    /// In quotes that end with this byte.
    Quotes(u8),
    /// Behind a backslash in such quotes.
    Escaped(u8),
    /// In a comment to the end of the line.
    Line,
    /// Behind `--`, which begins a comment before a blank.
    Dashes,
    /// Behind `/*`.
    Opened,
    Comment,
    /// Behind a star in a comment.
    Star,
}

/// A statement by its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No word yet.
    None,
    /// Reads or changes rows, and ends no transaction.
    Rows,
    /// May end a transaction, and leaves nothing in the session.
    Other,
    Begin,
    Flush,
    Set,
    /// `SET PASSWORD` and `SET DEFAULT ROLE`.
    Account,
    Use,
    Unknown,
}

/// Whether a text names a character set in which a part of a character can be an ASCII
/// character that is not there.
fn names_ambiguous(text: &[u8]) -> bool {
    let text = text.to_ascii_lowercase();
    [&b"gbk"[..], b"big5", b"sjis", b"cp932"]
        .iter()
        .any(|name| text.windows(name.len()).any(|part| part == *name))
}

/// The collations of these character sets that a client can name at its login.
const AMBIGUOUS: [u8; 8] = [1, 13, 28, 84, 87, 88, 95, 96];

/// Whether statements in the character set of this collation cannot be read here.
pub(crate) fn is_ambiguous(collation: u8) -> bool {
    AMBIGUOUS.contains(&collation)
}

impl Scanner {
    /// Reads a statement of a session in which backslashes in quotes are escapes, or not.
    pub fn new(backslashes: bool) -> Scanner {
        Scanner {
            backslashes,
            at: At::Code,
            last: b' ',
            word: [0; WORD_BYTES],
            word_bytes: 0,
            words: 0,
            kind: Kind::None,
            unknown: false,
            ended: false,
            has_expressions: false,
            has_commas: false,
            is_role: false,
            has_isolation: false,
            argument: Argument::Elsewhere,
            text: Some(Vec::new()),
        }
    }

    /// Reads the next part.
    pub fn feed(&mut self, part: &[u8]) {
        for &byte in part {
            self.byte(byte);
        }
        if let Some(text) = &mut self.text {
            let is_kept = matches!(self.kind, Kind::None | Kind::Set | Kind::Use);
            if is_kept && text.len() + part.len() <= KEPT_BYTES {
                text.extend_from_slice(part);
            } else {
                self.text = None;
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        self.at = match self.at {
            At::Code => {
                self.code(byte);
                return;
            }
            At::Quotes(end) if byte == end => self.back(end),
            At::Quotes(end) if byte == b'\\' && self.backslashes && end != b'`' => At::Escaped(end),
            At::Quotes(end) | At::Escaped(end) => At::Quotes(end),
            At::Line | At::Dashes if byte == b'\n' => self.back(b' '),
            At::Line => At::Line,
            At::Dashes if byte <= b' ' => At::Line,
            At::Dashes => {
                self.at = At::Code;
                self.code(byte);
                return;
            }
            At::Opened => {
                // An executable one: /*!50000 ... */ or /*M! ... */.
                self.unknown |= matches!(byte, b'!' | b'M');
                match byte {
                    b'*' => At::Star,
                    _ => At::Comment,
                }
            }
            At::Comment | At::Star if byte == b'*' => At::Star,
            At::Star if byte == b'/' => self.back(b' '),
            At::Comment | At::Star => At::Comment,
        };
    }

    /// Behind a comment or quotes. `last`: what stands for them.
    fn back(&mut self, last: u8) -> At {
        self.last = last;
        At::Code
    }

    /// A byte outside of comments and quotes.
    fn code(&mut self, byte: u8) {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..) {
            if let Some(room) = self.word.get_mut(self.word_bytes) {
                *room = byte.to_ascii_uppercase();
            }
            self.word_bytes = (self.word_bytes + 1).min(WORD_BYTES);
            return;
        }
        let before = self.end_word();
        // Behind a semicolon, another statement.
        if self.ended && byte > b' ' && !matches!(byte, b';' | b'#' | b'-' | b'/') {
            self.unknown = true;
        }
        // `@` is a user variable, `@@` a system variable.
        if before == b'@' && byte != b'@' {
            self.unknown = true;
        }
        self.unknown |= match byte {
            // A name that is quoted is not read: of a variable, and of a function.
            b'`' | b'"' => self.kind == Kind::Set,
            b'(' => matches!(before, b'`' | b'"'),
            _ => false,
        };
        self.has_expressions |= matches!(byte, b'(' | b'@' | b'+' | b'*' | b'/');
        self.has_commas |= byte == b',';
        self.argument = match (self.argument, byte) {
            (place, ..=b' ') => place,
            (Argument::Named, b'(') => Argument::Opened,
            (Argument::Opened, b')') | (Argument::Elsewhere, _) => Argument::Elsewhere,
            (Argument::Named, _) => Argument::Elsewhere,
            (Argument::Opened, _) => {
                self.unknown = true;
                Argument::Elsewhere
            }
        };
        self.last = byte;
        match byte {
            b'\'' | b'"' | b'`' => self.at = At::Quotes(byte),
            b'#' => self.at = At::Line,
            b'-' if before == b'-' => self.at = At::Dashes,
            b'*' if before == b'/' => self.at = At::Opened,
            b'@' if before == b'@' => self.last = b' ',
            b';' => self.ended = true,
            _ => {}
        }
    }

    /// Takes the word that has ended, if there is one. Returns the byte before the next one,
    /// if no word was between.
    fn end_word(&mut self) -> u8 {
        let count = std::mem::take(&mut self.word_bytes);
        if count == 0 {
            return self.last;
        }
        let before = std::mem::replace(&mut self.last, b' ');
        self.unknown |= before == b'@' || self.ended || self.argument == Argument::Opened;
        self.argument = Argument::Elsewhere;
        let word = self.word;
        self.take_word(&word[..count]);
        self.words += 1;
        b' '
    }

    fn take_word(&mut self, word: &[u8]) {
        match (self.words, self.kind, word) {
            (0, ..) => self.kind = Kind::of(word),
            // What others see or lose, and not what the session has.
            (1, Kind::Set, b"PASSWORD" | b"DEFAULT") => self.kind = Kind::Account,
            (1, Kind::Set, b"ROLE") => self.is_role = true,
            (_, Kind::Set, b"PASSWORD" | b"ROLE") => self.unknown = true,
            // From tables, which may have changed.
            (_, Kind::Set, b"FROM") => self.unknown = true,
            (
                _,
                Kind::Set,
                b"TX_ISOLATION"
                | b"TX_READ_ONLY"
                | b"TRANSACTION_ISOLATION"
                | b"TRANSACTION_READ_ONLY",
            ) => self.has_isolation = true,
            (_, Kind::Set, b"LAST_INSERT_ID" | b"IDENTITY") => self.unknown = true,
            (_, _, b"LAST_INSERT_ID") => self.argument = Argument::Named,
            // Its answer does not tell LAST_INSERT_ID().
            (_, Kind::Rows, b"RETURNING") => self.unknown = true,
            // For the next transaction or statement only.
            (1, Kind::Set, b"TRANSACTION" | b"STATEMENT") => self.unknown = true,
            (
                _,
                Kind::Set,
                b"GLOBAL"
                | b"TIMESTAMP"
                | b"INSERT_ID"
                | b"GTID_SEQ_NO"
                | b"RAND_SEED1"
                | b"RAND_SEED2"
                | b"COLLATION_DATABASE"
                | b"PSEUDO_THREAD_ID",
            ) => self.unknown = true,
            (1, Kind::Begin, b"NOT") => self.unknown = true,
            (_, Kind::Flush, b"LOCK" | b"EXPORT") => self.unknown = true,
            (_, _, b"TEMPORARY" | b"GET_LOCK") => self.unknown = true,
            _ => {}
        }
    }

    /// Ends the statement: what it does, and whether it may end a transaction.
    pub fn end(mut self) -> Scanned {
        if self.end_word() == b'@' {
            self.unknown = true;
        }
        let unknown = self.unknown
            || self.kind == Kind::Unknown
            || self.at != At::Code && self.at != At::Line;
        // `SET @@tx_isolation` is for the next transaction only.
        let unknown = unknown
            || self.has_commas && (self.is_role || self.kind == Kind::Account)
            || self.has_isolation && self.has_expressions
            || self.kind == Kind::Set && self.text.as_deref().is_some_and(names_ambiguous);
        let effect = match self.kind {
            _ if unknown => Effect::Unknown,
            Kind::Set | Kind::Use if self.text.is_some() => Effect::Repeatable,
            Kind::Set | Kind::Use => Effect::Unknown,
            _ => Effect::Nothing,
        };
        Scanned {
            effect,
            may_commit: unknown || self.kind != Kind::Rows,
            survives_reset: self.kind == Kind::Use || self.is_role,
            is_literal: self.kind == Kind::Use || !self.has_expressions,
            text: self.text.filter(|_| effect == Effect::Repeatable),
        }
    }
}

/// A statement that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub effect: Effect,
    /// It may end a transaction.
    pub may_commit: bool,
    /// COM_RESET_CONNECTION leaves what it does.
    pub survives_reset: bool,
    /// Its effect depends on nothing else.
    pub is_literal: bool,
    /// The statement, if it is repeatable.
    pub text: Option<Vec<u8>>,
}

impl Scanned {
    /// Reads a statement that is there as a whole.
    pub fn of(statement: &[u8], backslashes: bool) -> Scanned {
        let mut scanner = Scanner::new(backslashes);
        scanner.feed(statement);
        scanner.end()
    }
}

impl Kind {
    fn of(word: &[u8]) -> Kind {
        match word {
            b"SELECT" | b"INSERT" | b"UPDATE" | b"DELETE" | b"REPLACE" | b"WITH" | b"VALUES"
            | b"SAVEPOINT" | b"RELEASE" | b"DO" => Kind::Rows,
            b"SHOW" | b"EXPLAIN" | b"DESC" | b"DESCRIBE" | b"ANALYZE" | b"COMMIT" | b"ROLLBACK"
            | b"START" | b"TRUNCATE" | b"DROP" | b"ALTER" | b"CREATE" | b"RENAME" | b"GRANT"
            | b"REVOKE" | b"OPTIMIZE" | b"CHECK" | b"CHECKSUM" | b"REPAIR" | b"KILL" | b"LOAD"
            | b"UNLOCK" => Kind::Other,
            b"BEGIN" => Kind::Begin,
            b"FLUSH" => Kind::Flush,
            b"SET" => Kind::Set,
            b"USE" => Kind::Use,
            _ => Kind::Unknown,
        }
    }
}
