//! Circles of imports.
//!
//! For each module, its children are nodes, each standing for all that is below it, and an arrow is an import
//! from anywhere below one child of something below another. That graph has to be without a circle. A module
//! and its own descendants may import each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    imports,
    modules::{Crate, ModulePath},
};

/// The imports between two children: an example of them.
type Graph = BTreeMap<String, BTreeMap<String, Import>>;

#[derive(Clone)]
struct Import {
    from: ModulePath,
    to: ModulePath,
}

/// A line for each circle: the shortest one through each group of modules that reach each other.
pub(crate) fn check(tree: &Crate) -> Vec<String> {
    let mut graphs: BTreeMap<ModulePath, Graph> = BTreeMap::new();
    for (from, module) in &tree.modules {
        if module.test_only {
            continue;
        }
        for to in imports::of(tree, from) {
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            let (Some(a), Some(b)) = (from.get(common), to.get(common)) else { continue };
            let graph = graphs.entry(from[..common].to_vec()).or_default();
            let import = Import { from: from.clone(), to: to.clone() };
            graph.entry(a.clone()).or_default().entry(b.clone()).or_insert(import);
        }
    }
    graphs.iter().flat_map(|(parent, graph)| circles(tree, parent, graph)).collect()
}

fn circles(tree: &Crate, parent: &ModulePath, graph: &Graph) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for start in graph.keys() {
        if seen.contains(start) {
            continue;
        }
        let Some(circle) = shortest(graph, start) else { continue };
        let file = tree.modules.get(parent).map(|module| module.file.display().to_string());
        let mut line = format!("{}: circle of imports: ", file.unwrap_or_default());
        line.push_str(&circle.join(" -> "));
        for pair in circle.windows(2) {
            let import = &graph[&pair[0]][&pair[1]];
            line.push_str(&format!(
                "\n    {} imports {}",
                import.from.join("::"),
                import.to.join("::")
            ));
        }
        seen.extend(circle);
        found.push(line);
    }
    found
}

/// The shortest way from `start` back to it.
fn shortest(graph: &Graph, start: &String) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&String, &String> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for next in graph.get(at).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                let mut way = vec![start.clone(), at.clone()];
                let mut at = at;
                while let Some(before) = came_from.get(at) {
                    way.push((*before).clone());
                    at = before;
                }
                if at == start && way.len() > 1 && way[1] == *start {
                    way.remove(1);
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    None
}
