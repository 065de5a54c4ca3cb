//! Names of databases and tables as files bear them, and back, for people.
//!
//! MariaDB writes what is not a plain letter, digit or `_` as `@` and four
//! hexadecimal digits, or, for common letters, as `@` and two characters of a
//! code of its own (`my_uni_filename` in `strings/ctype-utf8.c`). The latter
//! are left as they are here: good enough for a message, and SQL takes the
//! file's name as it is behind `#mysql50#`.

#[cfg(test)]
mod tests;

/// `name` for people.
pub fn readable(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find('@') {
        let (before, code) = rest.split_at(at);
        out.push_str(before);
        let digits = code.get(1..5);
        let decoded = digits
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|d| u32::from_str_radix(d, 16).ok())
            .and_then(char::from_u32);
        match decoded {
            Some(c) => {
                out.push(c);
                rest = code.get(5..).unwrap_or_default();
            }
            None => {
                out.push('@');
                rest = code.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// `` `database`.`table` `` for people, of file names.
pub fn table(database: &str, table: &str) -> String {
    format!("`{}`.`{}`", readable(database), readable(table))
}

/// A file's name as an identifier in SQL.
pub fn sql(name: &str) -> String {
    if name.contains('@') || name.contains('#') {
        format!("`#mysql50#{}`", name.replace('`', "``"))
    } else {
        format!("`{}`", name.replace('`', "``"))
    }
}

/// `text` as a string in SQL.
pub fn sql_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
