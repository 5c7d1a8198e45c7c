//! What a user is told when the Hub says no.

use candlewick_engine::{LoadError, ModelSource};

use crate::world::*;

async fn with_token(world: &World, token: &str, name: &str) -> LoadError {
    let mut settings = world.settings();
    settings.token = Some(token.into());
    let source = source(settings);
    match source.resolve(&model(name)).await {
        Err(error) => error,
        Ok(snapshot) => fetch(&*snapshot, WEIGHTS).await.expect_err("it is refused"),
    }
}

#[tokio::test]
async fn a_model_that_is_not_there_is_named_with_where_it_was_looked_for() {
    let world = World::new().await;
    let error = resolve_error(&world.source(), "org/typo").await;
    assert!(matches!(error, LoadError::NotFound(_)), "{error:?}");
    assert_says(&error, &["`org/typo`", &world.hub.endpoint(), "HF_TOKEN is not set"]);

    let error = resolve_error(&world.source(), "org/m@v2").await;
    assert!(matches!(error, LoadError::NotFound(_)), "{error:?}");
    assert_says(&error, &["`org/m`", "no revision `v2`"]);

    let error = resolve_error(&world.source(), &format!("org/m@{}", "a".repeat(40))).await;
    assert!(matches!(error, LoadError::NotFound(_)), "{error:?}");
    assert_says(&error, &["no revision"]);
}

#[tokio::test]
async fn a_name_that_no_model_can_have_is_not_asked_for() {
    let world = World::new().await;
    for name in ["a/b/c", "org/m:fastest", "a--b/c", "org/m@/etc/passwd"] {
        let error = resolve_error(&world.source(), name).await;
        assert!(matches!(error, LoadError::NotFound(_)), "{error:?}");
        assert_says(&error, &["no name"]);
    }
    assert_eq!(world.hub.requests(), []);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let world = World::new().await;
    let error = world.fetch(&world.source(), &["model-q8.gguf"]).await.expect_err("there is none such");
    assert!(matches!(error, LoadError::NotFound(_)), "{error:?}");
    assert_says(&error, &["`model-q8.gguf`", "org/m"]);
}

#[tokio::test]
async fn a_wrong_token_is_called_that() {
    let world = World::new().await;
    let error = with_token(&world, "hf_wrong", "org/m").await;
    assert!(matches!(error, LoadError::Forbidden(_)), "{error:?}");
    assert_says(&error, &["refuses the token", "Invalid credentials", "HF_TOKEN"]);
    assert!(!error.to_string().contains("hf_wrong"), "a secret stays one");
}

#[tokio::test]
async fn a_gated_model_asks_for_terms_and_token() {
    let world = World::of(model_repo().gated_for("hf_accepted")).await;
    let error = world.fetch(&world.source(), &[WEIGHTS]).await.expect_err("it is refused");
    assert!(matches!(error, LoadError::Forbidden(_)), "{error:?}");
    assert_says(&error, &["`org/m` is gated", &format!("{}/org/m", world.hub.endpoint()), "set HF_TOKEN"]);

    world.hub.add_token("hf_other");
    let error = with_token(&world, "hf_other", "org/m").await;
    assert!(matches!(error, LoadError::Forbidden(_)), "{error:?}");
    assert_says(&error, &["has no access"]);

    let mut settings = world.settings();
    settings.token = Some("hf_accepted".into());
    world.fetch(&source(settings), &[WEIGHTS]).await.expect("terms are accepted");
}

#[tokio::test]
async fn a_private_model_is_there_for_its_owner_alone() {
    let world = World::of(model_repo().private_to("hf_owner")).await;
    let error = resolve_error(&world.source(), "org/m").await;
    assert!(matches!(error, LoadError::NotFound(_)), "{error:?}");
    world.hub.add_token("hf_other");
    assert_says(&with_token(&world, "hf_other", "org/m").await, &["the token has no access to it"]);

    let mut settings = world.settings();
    settings.token = Some("hf_owner".into());
    world.fetch(&source(settings), &[WEIGHTS]).await.expect("it is the owner's");
}
