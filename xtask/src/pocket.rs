//! Not written yet.

pub fn run(_args: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("the generator is not written yet")
}
