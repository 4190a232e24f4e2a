//! Reads docs/API.md: sections named after actions, each with examples.

/// A request and the answer that the page promises.
#[derive(Clone, Debug)]
pub struct Example {
    /// The line of the request, for messages.
    pub line: usize,
    /// The action of its section; `home` for the one without a name.
    pub section: String,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// As written; empty if there is none.
    pub body: String,
    pub status: u16,
    pub answer: String,
}

/// Returns the sections that are named after actions, in order.
pub fn sections(page: &str) -> Vec<String> {
    page.lines().filter_map(section).collect()
}

fn section(line: &str) -> Option<String> {
    let title = line.strip_prefix("### `")?;
    title.strip_suffix('`').map(str::to_owned)
}

/// Returns all examples, in order.
pub fn examples(page: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut current = String::new();
    let mut lines = page.lines().enumerate();
    let mut pending: Option<Example> = None;
    while let Some((number, line)) = lines.next() {
        if let Some(name) = section(line) {
            current = name;
        }
        let Some(kind) = line.strip_prefix("```") else {
            continue;
        };
        let text: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        if kind == "http" {
            assert!(
                pending.is_none(),
                "line {number}: no answer to the one before"
            );
            pending = Some(request(number + 1, &current, &text));
        } else if let Some(status) = kind.strip_prefix("json")
            && let Some(mut example) = pending.take()
        {
            example.status = status.trim().parse().unwrap_or(200);
            example.answer = text.join("\n");
            examples.push(example);
        }
    }
    examples
}

fn request(line: usize, section: &str, text: &[&str]) -> Example {
    let end = text.iter().position(|line| line.is_empty());
    let (head, body) = text.split_at(end.unwrap_or(text.len()));
    let (method, path) = head[0].split_once(' ').unwrap();
    let header = |line: &&str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_owned(), value.to_owned())
    };
    Example {
        line,
        section: section.to_owned(),
        method: method.to_owned(),
        path: path.to_owned(),
        headers: head[1..].iter().map(header).collect(),
        body: body.iter().skip(1).copied().collect::<Vec<_>>().join("\n"),
        status: 0,
        answer: String::new(),
    }
}
