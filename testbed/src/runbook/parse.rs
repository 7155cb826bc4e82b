//! Parses a document. Anything that is not understood is an error, so that a typing error does not skip a command.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Action, Commands, Copy, Place, Section, Step};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Parses a document about these hosts. Errors have the number of the line.
pub fn parse(text: &str, hosts: &[&str]) -> Result<Vec<Section>> {
    let mut parser = Parser {
        hosts,
        sections: Vec::new(),
        paragraph: String::new(),
        paragraph_ended: false,
        has_mark: false,
    };
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            parser.text(number, line).with_context(|| format!("line {number}: {line}"))?;
            continue;
        };
        let mut body = Vec::new();
        let closed = lines.by_ref().any(|(_, line)| {
            let end = line == "```";
            if !end {
                body.push(line);
            }
            end
        });
        let fenced = if closed { parser.fence(info, number + 1, &body) } else { Err(unclosed()) };
        fenced.with_context(|| format!("line {number}: {line}"))?;
    }
    let Parser { mut sections, .. } = parser;
    sections.retain(|section| !section.steps.is_empty());
    Ok(sections)
}

struct Parser<'a> {
    hosts: &'a [&'a str],
    sections: Vec<Section>,
    /// The last paragraph of text.
    paragraph: String,
    /// Whether an empty line has followed the paragraph.
    paragraph_ended: bool,
    /// Whether the section states how many pings may be lost.
    has_mark: bool,
}

impl Parser<'_> {
    fn text(&mut self, number: usize, line: &str) -> Result<()> {
        ensure!(!line.trim_start().starts_with("```"), "a fence must start its line");
        if let Some(title) = line.strip_prefix("## ") {
            self.sections.push(Section {
                line: number,
                title: title.trim().to_owned(),
                max_lost: None,
                steps: Vec::new(),
            });
            self.has_mark = false;
        } else if let Some(mark) = line.strip_prefix("<!-- ").and_then(|s| s.strip_suffix(" -->")) {
            self.mark(mark)?;
        }
        match line.trim() {
            "" => self.paragraph_ended = true,
            line => {
                if std::mem::take(&mut self.paragraph_ended) {
                    self.paragraph.clear();
                }
                self.paragraph.push_str(line);
                self.paragraph.push(' ');
            }
        }
        Ok(())
    }

    fn mark(&mut self, mark: &str) -> Result<()> {
        let Some((name, value)) = mark.split_once(": ") else { return Ok(()) };
        if name == "lost" {
            self.section()?.max_lost = match value {
                "any" => None,
                number => Some(number.parse().context("a number of pings, or `any`")?),
            };
            self.has_mark = true;
        }
        Ok(())
    }

    fn section(&mut self) -> Result<&mut Section> {
        self.sections.last_mut().context("before the first heading of the second level")
    }

    /// Parses a block; `first` is the number of its first line.
    fn fence(&mut self, info: &str, first: usize, body: &[&str]) -> Result<()> {
        let mut words = info.split_whitespace();
        let language = words.next().unwrap_or_default();
        let attributes: Vec<&str> = words.collect();
        match language {
            "output" => {
                ensure!(attributes.is_empty(), "`output` has no attributes");
                self.output(body)
            }
            "copy" => {
                ensure!(attributes.is_empty(), "`copy` has no attributes");
                let lines = body.iter().enumerate();
                let copies = lines.map(|(index, line)| {
                    self.copy(first + index, line).with_context(|| format!("{line:?}"))
                });
                let copies = copies.collect::<Result<Vec<_>>>()?;
                self.push(first, Action::Copy(copies), body)
            }
            "sh" if !attributes.is_empty() => {
                let commands = self.commands(&attributes, body)?;
                self.push(first, Action::Run(commands), body)
            }
            _ => {
                ensure!(attributes.is_empty(), "only `sh` has attributes");
                Ok(())
            }
        }
    }

    fn push(&mut self, line: usize, action: Action, body: &[&str]) -> Result<()> {
        ensure!(body.iter().any(|line| !line.trim().is_empty()), "the block is empty");
        ensure!(
            self.has_mark,
            "its section does not state how many pings may be lost: <!-- lost: 0 -->"
        );
        self.section()?.steps.push(Step { line, action });
        Ok(())
    }

    fn commands(&self, attributes: &[&str], body: &[&str]) -> Result<Commands> {
        let mut commands = Commands {
            hosts: Vec::new(),
            script: body.join("\n"),
            timeout: DEFAULT_TIMEOUT,
            repeat: false,
            expected: Vec::new(),
        };
        for attribute in attributes {
            match attribute.split_once('=') {
                Some(("host", names)) => {
                    let names = names.split(',').map(|name| self.host(name));
                    commands.hosts = names.collect::<Result<_>>()?;
                }
                Some((name @ ("within" | "until"), span)) => {
                    let seconds = span.strip_suffix('s').and_then(|number| number.parse().ok());
                    let seconds =
                        seconds.with_context(|| format!("{span:?} is not a time like 20s"))?;
                    commands.timeout = Duration::from_secs(seconds);
                    commands.repeat = name == "until";
                }
                _ => bail!("{attribute:?} is none of host=, within=, until="),
            }
        }
        ensure!(!commands.hosts.is_empty(), "it does not name its host: host=NAME");
        for host in &commands.hosts {
            let named = self.paragraph.split("**").skip(1).step_by(2).any(|bold| bold == host);
            ensure!(
                named,
                "the text before it does not tell a reader that it is for **{host}**: {:?}",
                self.paragraph
            );
        }
        Ok(commands)
    }

    fn output(&mut self, body: &[&str]) -> Result<()> {
        let steps = &mut self.section()?.steps;
        match steps.last_mut().map(|step| &mut step.action) {
            Some(Action::Run(commands)) if commands.expected.is_empty() => {
                commands.expected = body.iter().map(|line| (*line).to_owned()).collect();
                Ok(())
            }
            _ => bail!("no block that runs is right before it"),
        }
    }

    fn copy(&self, line: usize, text: &str) -> Result<Copy> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [from, to] = words.as_slice() else { bail!("not HOST:PATH HOST:PATH") };
        let (from, mut to) = (self.place(from)?, self.place(to)?);
        ensure!(!from.path.ends_with('/'), "only files can be copied, not a directory");
        if to.path.ends_with('/') {
            let name = from.path.rsplit('/').next().unwrap_or_default();
            to.path.push_str(name);
        }
        Ok(Copy { line, from, to })
    }

    fn place(&self, text: &str) -> Result<Place> {
        let (host, path) = text.split_once(':').context("not HOST:PATH")?;
        ensure!(!path.is_empty(), "no path after {host}:");
        Ok(Place { host: self.host(host)?, path: path.to_owned() })
    }

    fn host(&self, name: &str) -> Result<String> {
        ensure!(
            self.hosts.contains(&name),
            "there is no host {name}; there are {}",
            self.hosts.join(", ")
        );
        Ok(name.to_owned())
    }
}

fn unclosed() -> anyhow::Error {
    anyhow::anyhow!("the fence is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 2] = ["ctl1", "operator"];

    fn refused(text: &str) -> String {
        format!("{:#}", parse(text, &HOSTS).unwrap_err())
    }

    fn one(fence: &str) -> String {
        format!("## A\n<!-- lost: 0 -->\nOn **ctl1**:\n{fence}\n")
    }

    #[test]
    fn a_block_has_its_hosts_its_timeout_and_its_expected_output() {
        let text = "# T\n\n## First\n<!-- lost: any -->\n\nOn **ctl1** and **operator**:\n\n\
                    ```sh host=ctl1,operator until=20s\na\nb \\\n  c\n```\n```output\nx … y\n```\n\n\
                    ```toml\nkey = 1\n```\n## Empty\n";
        let sections = parse(text, &HOSTS).unwrap();
        let commands = Commands {
            hosts: vec!["ctl1".to_owned(), "operator".to_owned()],
            script: "a\nb \\\n  c".to_owned(),
            timeout: Duration::from_secs(20),
            repeat: true,
            expected: vec!["x … y".to_owned()],
        };
        let step = Step { line: 9, action: Action::Run(commands) };
        let title = "First".to_owned();
        assert_eq!(sections, [Section { line: 3, title, max_lost: None, steps: vec![step] }]);
    }

    #[test]
    fn files_are_copied_to_a_path_or_into_a_directory() {
        let text = one("```copy\noperator:a/b ctl1:/etc/\nctl1:/x operator:y\n```");
        let sections = parse(&text, &HOSTS).unwrap();
        assert_eq!(sections[0].max_lost, Some(0));
        let Action::Copy(copies) = &sections[0].steps[0].action else { panic!("{sections:?}") };
        let shown: Vec<_> = copies
            .iter()
            .map(|copy| {
                let Copy { line, from, to } = copy;
                format!("{line} {}:{} {}:{}", from.host, from.path, to.host, to.path)
            })
            .collect();
        assert_eq!(shown, ["5 operator:a/b ctl1:/etc/b", "6 ctl1:/x operator:y"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for (text, why) in [
            (one("```sh host=ctl9\na\n```"), "line 4: ```sh host=ctl9: there is no host ctl9"),
            (one("```sh hots=ctl1\na\n```"), "\"hots=ctl1\" is none of"),
            (one("```sh within=5s\na\n```"), "it does not name its host"),
            (one("```sh host=ctl1 within=5m\na\n```"), "\"5m\" is not a time"),
            (one("```sh host=operator\na\n```"), "for **operator**"),
            (one("```sh host=ctl1\na"), "the fence is not closed"),
            (one("```sh host=ctl1\n\n```"), "the block is empty"),
            (one("```toml host=ctl1\na\n```"), "only `sh` has attributes"),
            (one("  ```sh host=ctl1\na\n```"), "a fence must start its line"),
            (one("```output\na\n```"), "no block that runs"),
            (one("```copy\nctl1:/a ctl9:/b\n```"), "there is no host ctl9"),
            (one("```copy\nctl1:/a\n```"), "not HOST:PATH HOST:PATH"),
            ("## A\n<!-- lost: few -->\n".to_owned(), "a number of pings"),
            ("## A\nOn **ctl1**:\n```sh host=ctl1\na\n```\n".to_owned(), "how many pings"),
            ("<!-- lost: 0 -->\n".to_owned(), "before the first heading"),
        ] {
            let error = refused(&text);
            assert!(error.contains(why), "{error}\nhas no {why:?}");
        }
    }
}
