//! Nothing is computed twice: a tree over tokens whose nodes are pages of the model's memory. A new prompt begins on the
//! longest way down that it shares, whoever computed it, and whether or not he is still at work.
//!
//! A node is a whole page; a leaf may also be a page that is partly filled. A sequence uses the nodes it stands on, from
//! the root to where it is, and they stay as long as it does. The rest goes when room is needed: the least recently used
//! first, leaves before what they stand on. Recurrent states hang at the tokens they were taken after.
//! Invariants: each node holds its page once; who stands on a node has its page; a node with users has used parents; at
//! least one token of a prompt is always left to compute, because its result is what the first token is drawn from.

use std::collections::BTreeSet;

use crate::executor::Executor;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(usize);

pub(crate) struct Tree<P, S> {
    page_tokens: usize,
    /// The first is the root, which has no page.
    nodes: Vec<Node<P, S>>,
    free: Vec<NodeId>,
    /// Leaves that nobody uses, by their last use.
    idle: BTreeSet<(u64, NodeId)>,
    clock: u64,
    /// Nodes that nobody uses.
    unused: usize,
    states: usize,
}

struct Node<P, S> {
    parent: NodeId,
    /// All of a page, or of a leaf less.
    tokens: Vec<u32>,
    page: Option<P>,
    children: Vec<NodeId>,
    users: usize,
    last_use: u64,
    /// Each after so many of the node's tokens.
    states: Vec<(usize, S)>,
}

/// Where a prompt may begin.
pub(crate) struct Found<P, S> {
    /// Its tokens that need no computing.
    pub length: usize,
    pub pages: Vec<P>,
    /// The pages' nodes.
    pub nodes: Vec<NodeId>,
    pub state: Option<S>,
}

const ROOT: NodeId = NodeId(0);

impl<P: Copy + Eq, S: Clone> Tree<P, S> {
    pub fn new(page_tokens: usize) -> Tree<P, S> {
        Tree {
            page_tokens,
            nodes: vec![Node::new(ROOT, Vec::new(), None, 0)],
            free: Vec::new(),
            idle: BTreeSet::new(),
            clock: 0,
            unused: 0,
            states: 0,
        }
    }

    /// Pages that `evict` could give back.
    pub fn unused(&self) -> usize {
        self.unused
    }

    pub fn states(&self) -> usize {
        self.states
    }

    /// The longest beginning of `prompt` that a slot can be opened on.
    pub fn find(
        &mut self,
        prompt: &[u32],
        executor: &impl Executor<Page = P, State = S>,
    ) -> Found<P, S> {
        let (nodes, length) = self.walk(&prompt[..prompt.len().saturating_sub(1)]);
        let pages: Vec<P> = nodes.iter().filter_map(|node| self.node(*node).page).collect();
        let count = |length: usize| length.div_ceil(self.page_tokens);
        let resumable = |length: usize, state: Option<&S>| {
            length == 0 || executor.is_resumable(&pages[..count(length)], length, state)
        };
        let (length, state) = if executor.state_bytes() == 0 {
            let whole = (0..=length / self.page_tokens).rev().map(|page| page * self.page_tokens);
            let mut lengths = std::iter::once(length).chain(whole);
            (lengths.find(|length| resumable(*length, None)).unwrap_or(0), None)
        } else {
            let mut states = self.states_on(&nodes, length);
            let found = states.find(|(length, state)| resumable(*length, Some(state)));
            found.map_or((0, None), |(length, state)| (length, Some(state.clone())))
        };
        let (pages, nodes) = (pages[..count(length)].to_vec(), nodes[..count(length)].to_vec());
        self.touch(&nodes);
        Found { length, pages, nodes, state }
    }

    /// The whole pages that `tokens` begin with.
    pub fn whole(&self, tokens: &[u32]) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = Vec::new();
        for tokens in tokens.chunks_exact(self.page_tokens) {
            let parent = nodes.last().copied().unwrap_or(ROOT);
            match self.child(parent, |node| node.tokens == tokens) {
                Some(node) => nodes.push(node),
                None => break,
            }
        }
        nodes
    }

    /// The part page behind `nodes` that has just these tokens.
    pub fn tail(&self, nodes: &[NodeId], tokens: &[u32]) -> Option<NodeId> {
        let parent = nodes.last().copied().unwrap_or(ROOT);
        self.child(parent, |node| node.tokens == tokens)
    }

    /// How much of `tokens` the page behind `nodes` has that has most of it.
    pub fn shared_behind(&self, nodes: &[NodeId], tokens: &[u32]) -> usize {
        let parent = nodes.last().copied().unwrap_or(ROOT);
        let children = self.node(parent).children.iter();
        children.map(|id| shared(&self.node(*id).tokens, tokens)).max().unwrap_or(0)
    }

    /// The last states of a node, each after so many of its tokens.
    pub fn last_states(&self, id: NodeId, count: usize) -> Vec<(usize, S)> {
        let mut states = self.node(id).states.clone();
        states.sort_by_key(|(tokens, _)| *tokens);
        states.split_off(states.len().saturating_sub(count))
    }

    pub fn page(&self, id: NodeId) -> Option<P> {
        self.node(id).page
    }

    /// The state after all of a whole page's tokens.
    pub fn state_behind(&self, id: NodeId) -> Option<&S> {
        let states = &self.node(id).states;
        states.iter().find(|(tokens, _)| *tokens == self.page_tokens).map(|(_, state)| state)
    }

    /// Adds one whole page behind `nodes`, in use.
    pub fn append(
        &mut self,
        nodes: &[NodeId],
        tokens: &[u32],
        page: P,
        executor: &mut impl Executor<Page = P, State = S>,
    ) -> NodeId {
        assert_eq!(tokens.len(), self.page_tokens, "a page that is not whole");
        let id = self.add(nodes.last().copied().unwrap_or(ROOT), tokens, page, executor);
        self.enter(&[id]);
        id
    }

    /// From now on these nodes stay, until they are left.
    pub fn enter(&mut self, nodes: &[NodeId]) {
        for id in nodes {
            self.unfile(*id);
            let node = self.node_mut(*id);
            node.users += 1;
            self.unused -= usize::from(self.node(*id).users == 1);
        }
    }

    pub fn leave(&mut self, nodes: &[NodeId]) {
        self.touch(nodes);
        for id in nodes {
            let node = self.node_mut(*id);
            node.users -= 1;
            self.unused += usize::from(self.node(*id).users == 0);
            self.file(*id);
        }
    }

    /// Adds the whole pages of a sequence behind those it stands on, and it stands on them too; unless somebody else has
    /// computed the same meanwhile and stands there. `tokens` are all that `pages` remember from the start.
    pub fn extend(
        &mut self,
        nodes: &mut Vec<NodeId>,
        tokens: &[u32],
        pages: &[P],
        executor: &mut impl Executor<Page = P, State = S>,
    ) {
        let whole = tokens.chunks_exact(self.page_tokens).zip(pages);
        for (tokens, page) in whole.skip(nodes.len()) {
            let parent = nodes.last().copied().unwrap_or(ROOT);
            let known = self.child(parent, |node| node.tokens == tokens);
            let id = known.unwrap_or_else(|| self.add(parent, tokens, *page, executor));
            if !self.stands_with(id, *page, executor) {
                return;
            }
            self.enter(&[id]);
            nodes.push(id);
        }
    }

    /// Whether a node has this page. One that nobody uses takes it instead of its own, which is the same.
    fn stands_with(
        &mut self,
        id: NodeId,
        page: P,
        executor: &mut impl Executor<Page = P, State = S>,
    ) -> bool {
        let node = self.node_mut(id);
        if node.page != Some(page) && node.users == 0 {
            executor.hold(page);
            node.page.replace(page).into_iter().for_each(|old| executor.release(old));
        }
        node.page == Some(page)
    }

    /// Adds a page that is partly filled, behind `nodes`. Nobody stands on it.
    pub fn add_tail(
        &mut self,
        nodes: &[NodeId],
        tokens: &[u32],
        page: P,
        executor: &mut impl Executor<Page = P, State = S>,
    ) -> NodeId {
        let parent = nodes.last().copied().unwrap_or(ROOT);
        let known = self.child(parent, |node| node.tokens.starts_with(tokens));
        known.unwrap_or_else(|| self.add(parent, tokens, page, executor))
    }

    /// Hangs a state behind the first `tokens` of a node.
    pub fn add_state(&mut self, id: NodeId, tokens: usize, state: S) {
        let node = self.node_mut(id);
        assert!(tokens <= node.tokens.len(), "a state after tokens that its page does not have");
        if node.states.iter().all(|(known, _)| *known != tokens) {
            node.states.push((tokens, state));
            self.states += 1;
        }
    }

    /// Gives up what was not used for the longest time; false if all is in use.
    pub fn evict(&mut self, executor: &mut impl Executor<Page = P, State = S>) -> bool {
        let leaf = self.idle.first().copied();
        match self.oldest_state() {
            // Between states of one age the deeper one is worth more.
            Some((last_use, id)) if leaf.is_none_or(|(leaf_use, _)| last_use <= leaf_use) => {
                self.node_mut(id).states.remove(0);
                self.states -= 1;
                true
            }
            _ => leaf.inspect(|(_, id)| self.remove(*id, executor)).is_some(),
        }
    }

    /// Gives up all pages that nobody uses, and all states.
    pub fn clear(&mut self, executor: &mut impl Executor<Page = P, State = S>) {
        while let Some((_, id)) = self.idle.first().copied() {
            self.remove(id, executor);
        }
        self.nodes.iter_mut().for_each(|node| node.states.clear());
        self.states = 0;
    }

    /// Nodes that share with `tokens`, all of theirs but perhaps the last one's, and how many tokens that is.
    fn walk(&self, tokens: &[u32]) -> (Vec<NodeId>, usize) {
        let (mut nodes, mut length) = (Vec::new(), 0);
        loop {
            let rest = &tokens[length..];
            let parent = nodes.last().copied().unwrap_or(ROOT);
            let children = self.node(parent).children.iter();
            let shares = children.map(|id| (shared(&self.node(*id).tokens, rest), *id));
            let Some((share, id)) = shares.max() else { return (nodes, length) };
            let is_whole = share == self.page_tokens;
            // A page is copied in the time that computing a token takes.
            if share > 0 {
                nodes.push(id);
                length += share;
            }
            if !is_whole {
                return (nodes, length);
            }
        }
    }

    /// States on the way down to `length`, the deepest first.
    fn states_on(&self, nodes: &[NodeId], length: usize) -> impl Iterator<Item = (usize, &S)> {
        let all = nodes.iter().enumerate().rev().flat_map(move |(index, id)| {
            let mut states: Vec<(usize, &S)> = self
                .node(*id)
                .states
                .iter()
                .map(|(tokens, state)| (index * self.page_tokens + tokens, state))
                .collect();
            states.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
            states
        });
        all.filter(move |(at, _)| *at <= length)
    }

    /// Of a node that has others behind it, whose states are worth more.
    fn oldest_state(&self) -> Option<(u64, NodeId)> {
        if self.states == 0 {
            return None;
        }
        let inner = |(_, node): &(usize, &Node<P, S>)| {
            !node.states.is_empty() && (!node.children.is_empty() || node.users > 0)
        };
        let nodes = self.nodes.iter().enumerate().filter(inner);
        nodes.map(|(index, node)| (node.last_use, NodeId(index))).min()
    }

    fn add(
        &mut self,
        parent: NodeId,
        tokens: &[u32],
        page: P,
        executor: &mut impl Executor<Page = P, State = S>,
    ) -> NodeId {
        executor.hold(page);
        self.unfile(parent);
        // A tail that goes on is in the new page too; its states still count.
        let tail = self.child(parent, |node| {
            node.users == 0 && node.tokens.len() < tokens.len() && tokens.starts_with(&node.tokens)
        });
        let states = tail.map(|id| std::mem::take(&mut self.node_mut(id).states));
        if let Some(id) = tail {
            self.remove(id, executor);
            self.unfile(parent);
        }
        let id = self.free.pop().unwrap_or(NodeId(self.nodes.len()));
        let mut node = Node::new(parent, tokens.to_vec(), Some(page), self.clock);
        node.states = states.unwrap_or_default();
        if id.0 == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[id.0] = node;
        }
        self.node_mut(parent).children.push(id);
        self.unused += 1;
        self.file(id);
        id
    }

    fn remove(&mut self, id: NodeId, executor: &mut impl Executor<Page = P, State = S>) {
        self.unfile(id);
        let root = Node::new(ROOT, Vec::new(), None, 0);
        let node = std::mem::replace(self.node_mut(id), root);
        assert!(node.users == 0 && node.children.is_empty(), "a node goes that is needed");
        node.page.into_iter().for_each(|page| executor.release(page));
        self.unused -= 1;
        self.states -= node.states.len();
        self.free.push(id);
        self.node_mut(node.parent).children.retain(|child| *child != id);
        self.file(node.parent);
    }

    fn touch(&mut self, nodes: &[NodeId]) {
        self.clock += 1;
        for id in nodes {
            self.unfile(*id);
            self.node_mut(*id).last_use = self.clock;
            self.file(*id);
        }
    }

    /// Into the list of what may go, if it may.
    fn file(&mut self, id: NodeId) {
        let node = self.node(id);
        if id != ROOT && node.users == 0 && node.children.is_empty() {
            self.idle.insert((node.last_use, id));
        }
    }

    fn unfile(&mut self, id: NodeId) {
        self.idle.remove(&(self.node(id).last_use, id));
    }

    fn child(&self, parent: NodeId, is_it: impl Fn(&Node<P, S>) -> bool) -> Option<NodeId> {
        self.node(parent).children.iter().copied().find(|id| is_it(self.node(*id)))
    }

    fn node(&self, id: NodeId) -> &Node<P, S> {
        &self.nodes[id.0]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node<P, S> {
        &mut self.nodes[id.0]
    }
}

impl<P, S> Node<P, S> {
    fn new(parent: NodeId, tokens: Vec<u32>, page: Option<P>, last_use: u64) -> Node<P, S> {
        Node { parent, tokens, page, children: Vec::new(), users: 0, last_use, states: Vec::new() }
    }
}

/// How many tokens both begin with.
pub(crate) fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Script, ScriptedExecutor, ScriptedPage, Summary};

    type Scripted = Tree<ScriptedPage, Summary>;

    fn finish(tree: &mut Scripted, executor: &mut ScriptedExecutor, tokens: &[u32]) {
        let slot = executor.open_with(tokens);
        let pages = executor.pages(slot).to_vec();
        let mut nodes = Vec::new();
        tree.extend(&mut nodes, tokens, &pages, executor);
        let tail = &tokens[nodes.len() * 8..];
        if !tail.is_empty() {
            let id = tree.add_tail(&nodes, tail, pages[nodes.len()], executor);
            if let Some(state) = executor.state(slot) {
                tree.add_state(id, tail.len(), state);
            }
        }
        executor.close(slot);
        tree.leave(&nodes);
    }

    fn kept(script: Script, conversations: &[&[u32]]) -> (Scripted, ScriptedExecutor) {
        let mut executor = ScriptedExecutor::with(script);
        let mut tree = Tree::new(executor.page_tokens());
        conversations.iter().for_each(|tokens| finish(&mut tree, &mut executor, tokens));
        (tree, executor)
    }

    /// Pages are those of the tree, before and after.
    #[track_caller]
    fn check(conversations: &[&[u32]], prompt: &[u32], length: usize, pages: usize) {
        let (mut tree, mut executor) = kept(Script::default(), conversations);
        assert_eq!((tree.unused(), executor.pages_in_use()), (pages, pages));
        let found = tree.find(prompt, &executor);
        assert_eq!(found.length, length);
        let slot = executor.open_on(&found.pages, found.length, None);
        assert_eq!(executor.remembered(slot), prompt[..length]);
        executor.close(slot);
        assert_eq!(executor.pages_in_use(), pages);
        while tree.evict(&mut executor) {}
        assert_eq!((tree.unused(), executor.pages_in_use()), (0, 0));
    }

    const LONG: &[u32] = &[
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
        26, 27, 28,
    ];

    #[test]
    fn the_longest_shared_beginning_wins() {
        check(&[], LONG, 0, 0);
        // All but one token: whole pages, and the copy of one that is worth it.
        check(&[LONG], LONG, 27, 4);
        check(&[LONG], &LONG[..25], 24, 4);
        check(&[LONG], &[&LONG[..20], &[99, 98]].concat(), 20, 4);
        check(&[LONG], &[&LONG[..17], &[99, 98]].concat(), 17, 4);
        // Two that go apart share what they begin with.
        let other = [&LONG[..16], &[99; 12]].concat();
        check(&[LONG, &other], &[&other[..], &[1]].concat(), 28, 6);
        check(&[LONG, &other], &[&LONG[..26], &[1, 2]].concat(), 26, 6);
        // What goes on takes its own tail's place.
        check(&[&LONG[..20], LONG], LONG, 27, 4);
        check(&[LONG, &LONG[..20]], LONG, 27, 4);
    }

    #[test]
    fn the_oldest_leaf_goes_first_and_what_is_used_stays() {
        let other = [&LONG[..8], &[99; 8]].concat();
        let (mut tree, mut executor) = kept(Script::default(), &[LONG, &other]);
        let found = tree.find(LONG, &executor);
        tree.enter(&found.nodes[..2]);
        assert!(tree.evict(&mut executor));
        assert_eq!(tree.find(&[&other[..], &[1]].concat(), &executor).length, 8);
        while tree.evict(&mut executor) {}
        assert_eq!((executor.pages_in_use(), tree.unused()), (2, 0));
        tree.leave(&found.nodes[..2]);
        assert_eq!(tree.unused(), 2);
    }

    #[test]
    fn recurrent_models_begin_where_a_state_was_kept() {
        let script = Script { is_recurrent: true, ..Script::default() };
        let (mut tree, executor) = kept(script, &[&LONG[..20], LONG]);
        // The tail of the first is a part of the second's page, with its state.
        for (prompt, length) in [(28, 20), (21, 20), (20, 0)] {
            assert_eq!(tree.find(&LONG[..prompt], &executor).length, length);
        }
        assert_eq!(tree.find(&[LONG, &[1]].concat(), &executor).length, 28);
    }

    #[test]
    fn windows_decide_too() {
        let script = Script { window: Some(8), ..Script::default() };
        let (mut tree, mut executor) = kept(script, &[LONG]);
        let page = tree.find(LONG, &executor).pages[2];
        executor.release_window(page);
        assert_eq!(tree.find(LONG, &executor).length, 16);
    }
}
