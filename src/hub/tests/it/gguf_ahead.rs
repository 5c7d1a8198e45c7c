//! A GGUF model that cannot be served is refused by its header, before it is fetched.

use candlewick_engine::LoadError;
use candlewick_hub::{Downloaded, download};

use crate::world::*;

const NAME: &str = "m.gguf";

/// What is asked for first.
const FIRST_BYTES: u64 = 256 << 10;

async fn hub_of(file: Vec<u8>) -> World {
    World::of(model_repo().lfs(NAME, &sha256(&file), file)).await
}

async fn fetch(world: &World) -> Result<Downloaded, LoadError> {
    let config_is_read = |config: &serde_json::Value| {
        assert_eq!(config["model_type"], "qwen2");
        Ok(())
    };
    download(&world.source(), &model(&format!("org/m:{NAME}")), &config_is_read, &|_| {}).await
}

/// The file with so many bytes of weights behind those that it has.
fn with_weights(mut file: Vec<u8>) -> Vec<u8> {
    file.resize(file.len() + (3 << 20), 0);
    file
}

/// Where the bytes behind the first mention of a word are.
fn after(file: &[u8], word: &str) -> usize {
    let word = word.as_bytes();
    file.windows(word.len()).position(|window| window == word).expect("it is in the file") + word.len()
}

/// The file with a long text before everything else that it says.
fn with_long_header(mut file: Vec<u8>) -> Vec<u8> {
    let num_keys = u64::from_le_bytes(file[16..24].try_into().expect("eight bytes"));
    file[16..24].copy_from_slice(&(num_keys + 1).to_le_bytes());
    let key = "general.description_";
    let mut entry = (key.len() as u64).to_le_bytes().to_vec();
    entry.extend(key.as_bytes());
    entry.extend(8u32.to_le_bytes());
    let text = vec![b'x'; 600 << 10];
    entry.extend((text.len() as u64).to_le_bytes());
    entry.extend(text);
    // Tensors are counted from a multiple of this.
    assert!(entry.len().is_multiple_of(8));
    let rest = entry.len().next_multiple_of(32) - entry.len();
    let at = entry.len();
    entry.resize(at + rest, b'x');
    let text_len = (600u64 << 10) + rest as u64;
    let place = 8 + key.len() + 4;
    entry[place..place + 8].copy_from_slice(&text_len.to_le_bytes());
    file.splice(24..24, entry);
    file
}

#[tokio::test]
async fn an_architecture_that_is_not_there_costs_no_weights() {
    let mut file = with_long_header(with_weights(gguf()));
    // The name comes before the long text then.
    let (at, end) = (24, after(&file, "general.architecture"));
    let start = end - "general.architecture".len() - 8;
    let entry = file.drain(start..end + 4 + 8 + 5).collect::<Vec<_>>();
    file.splice(at..at, entry);
    let at = after(&file, "general.architecture") + 12;
    file[at..at + 5].copy_from_slice(b"klang");
    let world = hub_of(file).await;
    let error = fetch(&world).await.expect_err("nobody knows it");
    assert!(matches!(error, LoadError::Unsupported(_)), "{error:?}");
    assert_says(&error, &[NAME, "\"klang\"", "llama, mistral, qwen2"]);
    assert_eq!(world.hub.bytes_sent(NAME), FIRST_BYTES);
}

#[tokio::test]
async fn a_tensor_that_is_not_read_costs_no_weights() {
    let mut file = with_weights(gguf());
    let at = after(&file, "blk.1.ffn_up.weight") + 4 + 2 * 8;
    file[at..at + 4].copy_from_slice(&16u32.to_le_bytes());
    let world = hub_of(file).await;
    let error = fetch(&world).await.expect_err("it cannot be read");
    assert!(matches!(error, LoadError::Unsupported(_)), "{error:?}");
    assert_says(&error, &[NAME, "blk.1.ffn_up.weight is stored as IQ2_XXS", "Q4_K"]);
    assert_eq!(world.hub.bytes_sent(NAME), FIRST_BYTES);
    assert!(!world.path("blobs").exists(), "nothing of it is kept");
}

#[tokio::test]
async fn a_long_header_comes_in_parts_over_a_line_that_breaks() {
    let file = with_long_header(with_weights(gguf()));
    let size = file.len() as u64;
    let world = hub_of(file).await;
    world.hub.break_after(NAME, 1000);
    fetch(&world).await.expect("it is a good file");
    let ranges = world.hub.transfers().into_iter().map(|transfer| transfer.range).collect::<Vec<_>>();
    let expected = ["bytes=0-262143", "bytes=1000-262143", "bytes=262144-1048575"];
    assert_eq!(ranges, [Some(expected[0].into()), Some(expected[1].into()), Some(expected[2].into()), None]);
    assert_eq!(world.hub.bytes_sent(NAME), (1 << 20) + size, "the header, and then the file");
}

#[tokio::test]
async fn a_hub_without_ranges_is_read_as_far_as_needed() {
    let file = with_long_header(with_weights(gguf()));
    let world = hub_of(file.clone()).await;
    (0..2).for_each(|_| world.hub.ignore_range(NAME));
    let downloaded = fetch(&world).await.expect("it is a good file");
    assert_eq!(std::fs::read(path_of(&downloaded.files.files[NAME])).expect("it is on disk"), file);
}

#[tokio::test]
async fn what_is_here_already_is_asked_of_nobody() {
    let world = hub_of(with_weights(gguf())).await;
    fetch(&world).await.expect("it comes");
    let num_transfers = world.hub.transfers().len();
    fetch(&world).await.expect("it is here");
    assert_eq!(world.hub.transfers().len(), num_transfers);
}
