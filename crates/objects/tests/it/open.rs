//! URLs and settings.
#![allow(clippy::unwrap_used)]

use xylem_objects::{Bucket, BucketConfig};

fn open(url: &str, settings: &[(&str, &str)]) -> Result<Bucket, String> {
    let config = BucketConfig {
        settings: settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        ..BucketConfig::default()
    };
    Bucket::open(url, config).map_err(|e| e.to_string())
}

/// A key made up for the test, as Google's come.
const GOOGLE: &str = r#"{"gcs_base_url":"https://localhost","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#;

#[test]
fn providers_are_known_by_their_scheme() {
    let key = [("access_key_id", "a"), ("secret_access_key", "b")];
    let s3 = open("s3://bucket/some/where/", &key).unwrap();
    assert_eq!(s3.url(), "s3://bucket/some/where");
    assert_eq!(s3.objects().path("x/y").as_ref(), "some/where/x/y");
    assert_eq!(s3.objects().store().to_string(), "AmazonS3(bucket)");
    // As settings are called in the environment.
    open(
        "s3://bucket",
        &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")],
    )
    .unwrap();

    let gs = open("gs://bucket/where", &[("service_account_key", GOOGLE)]).unwrap();
    assert_eq!(gs.objects().path("x").as_ref(), "where/x");

    let account = [("account_name", "me"), ("account_key", "a2V5")];
    for url in ["az://container/where", "azure://container/where"] {
        let az = open(url, &account).unwrap();
        assert_eq!(az.objects().path("x").as_ref(), "where/x");
        assert!(az.objects().store().to_string().contains("container"));
    }
    let az = open("az://container@me/where", &[("account_key", "a2V5")]).unwrap();
    assert_eq!(az.url(), "az://container@me/where");
    assert!(az.objects().store().to_string().contains("container"));
}

#[test]
fn secrets_stay_out_of_messages() {
    let url = "s3://user:pass@bucket/p?access_key_id=hidden1&secret_access_key=hidden2";
    let bucket = open(url, &[]).unwrap();
    assert_eq!(bucket.url(), "s3://bucket/p");
    let error = open(&format!("{url}&nonsense=hidden3"), &[]).unwrap_err();
    assert!(error.contains("nonsense"), "{error}");
    for secret in ["hidden", "pass"] {
        assert!(!error.contains(secret), "{error}");
    }
}

#[test]
fn what_is_not_understood_is_said() {
    for (url, settings, said) in [
        ("ftp://x/y", &[][..], "unknown scheme ftp"),
        ("ftp://x/y", &[], "file:///DIR, s3://BUCKET/PREFIX"),
        ("some/dir", &[], "relative URL"),
        ("file://some/dir", &[], "three slashes"),
        ("s3:///prefix", &[], "names no bucket"),
        (
            "s3://bucket",
            &[("regoin", "x")],
            "setting regoin is not known",
        ),
        ("s3://bucket", &[("allow_http", "perhaps")], "perhaps"),
        (
            "s3://bucket",
            &[("endpoint", "http://localhost:1")],
            "AWS_ALLOW_HTTP=true",
        ),
        (
            "gs://bucket",
            &[("region", "x")],
            "setting region is not known",
        ),
        ("az://container/x", &[("account_key", "a2V5")], "Account"),
        ("memory:///", &[("region", "x")], "takes no settings"),
        ("file:///tmp/x?region=y", &[], "takes no settings"),
        (
            "file:///proc/nothing/here",
            &[],
            "file:///proc/nothing/here",
        ),
    ] {
        let error = open(url, settings).unwrap_err();
        assert!(error.contains(said), "{url}: {error}");
    }
}
