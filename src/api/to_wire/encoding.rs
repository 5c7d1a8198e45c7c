//! Vectors, labels and scores.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candlewick_protocol::Rows;

use super::Head;
use crate::from_wire::NumberFormat;
use crate::wire::encoding::{
    ApiVersion, BilledUnits, Classified, Document, Embedding, EncodeUsage, EncodedList, LabelScore, Numbers,
    Pooled, Ranked, Ranking, RankingMeta, Score,
};

/// A list of what came of texts.
pub fn encoded_list<T>(head: &Head, canonical: &str, num_tokens: u64, data: Vec<T>) -> EncodedList<T> {
    EncodedList {
        id: head.id.clone(),
        object: "list",
        created: head.created,
        data,
        model: head.model(canonical),
        usage: encode_usage(num_tokens),
    }
}

fn encode_usage(num_tokens: u64) -> EncodeUsage {
    EncodeUsage { prompt_tokens: num_tokens, total_tokens: num_tokens }
}

/// One vector for each text.
pub fn embeddings(vectors: Vec<Rows>, format: NumberFormat) -> Vec<Embedding> {
    let vectors = vectors.into_iter().enumerate();
    vectors
        .map(|(index, rows)| Embedding {
            object: "embedding",
            index,
            embedding: numbers(rows, false, format),
        })
        .collect()
}

/// What was pooled of each text; `of_tokens` has a row for each token of it.
pub fn pooled(texts: Vec<Rows>, of_tokens: bool, format: NumberFormat) -> Vec<Pooled> {
    let texts = texts.into_iter().enumerate();
    texts
        .map(|(index, rows)| Pooled { object: "pooling", index, data: numbers(rows, of_tokens, format) })
        .collect()
}

fn numbers(rows: Rows, of_tokens: bool, format: NumberFormat) -> Numbers {
    match format {
        NumberFormat::Base64 => {
            let bytes: Vec<u8> = rows.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Numbers::Base64(STANDARD.encode(bytes))
        }
        NumberFormat::Float if of_tokens => Numbers::Rows(rows.iter().map(<[f32]>::to_vec).collect()),
        NumberFormat::Float => Numbers::Row(rows.values),
    }
}

/// The likeliest label of each text, and all likelihoods.
pub fn classified(names: &[String], scores: Vec<Rows>) -> Vec<Classified> {
    let classify = |(index, rows): (usize, Rows)| Classified {
        index,
        label: best_first(&rows.values)
            .first()
            .and_then(|&best| names.get(best))
            .cloned()
            .unwrap_or_default(),
        num_classes: rows.values.len(),
        probs: rows.values,
    };
    scores.into_iter().enumerate().map(classify).collect()
}

/// The places of values, those of the largest first, and of the same the first.
pub fn best_first(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// All labels of a text, likeliest first.
pub fn labelled(names: &[String], rows: &Rows) -> Vec<LabelScore> {
    let label = |index: usize| LabelScore {
        score: rows.values[index],
        label: names.get(index % rows.width.max(1)).cloned().unwrap_or_default(),
    };
    best_first(&rows.values).into_iter().map(label).collect()
}

/// How well each pair matches.
pub fn scores(scores: Vec<f32>) -> Vec<Score> {
    scores.into_iter().enumerate().map(|(index, score)| Score { index, object: "score", score }).collect()
}

/// Documents by their scores: the best first, and of the same score the one that was sent first.
pub fn ranking(
    head: &Head,
    canonical: &str,
    num_tokens: u64,
    scores: &[f32],
    top_n: usize,
    documents: Option<Vec<String>>,
    is_cohere: bool,
) -> Ranking {
    let ranked = |index: usize| Ranked {
        index,
        document: documents.as_ref().map(|documents| Document { text: documents[index].clone() }),
        relevance_score: scores[index],
    };
    Ranking {
        id: head.id.clone(),
        model: head.model(canonical),
        usage: encode_usage(num_tokens),
        results: best_first(scores).into_iter().take(top_n).map(ranked).collect(),
        meta: is_cohere.then_some(RankingMeta {
            api_version: ApiVersion { version: "2" },
            billed_units: BilledUnits { search_units: 1 },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_holds_the_bits_of_each_number() {
        let rows = Rows { values: vec![1.0, -2.5], width: 2 };
        let Numbers::Base64(text) = numbers(rows, false, NumberFormat::Base64) else { panic!() };
        assert_eq!(STANDARD.decode(text).expect("base64"), [0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
    }

    #[test]
    fn the_likeliest_label_is_told_and_of_two_the_first() {
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let rows = |values: [f32; 3]| Rows { values: values.to_vec(), width: 3 };
        let told = classified(&names, vec![rows([0.1, 0.7, 0.2]), rows([0.4, 0.4, 0.2])]);
        assert_eq!(told.iter().map(|one| one.label.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    }
}
