//! Tokens: live, revoked, the first and the last.

use crate::Store;
use crate::control::{AuditQuery, Effect, WriteError};
use crate::tests::samples::{at, done, entry, id, token, write};
use model::id::TokenId;
use model::role::Role;

pub(in crate::tests) async fn tokens_live_until_they_are_revoked(store: &Store) {
    let create = async |number, role, tenant, expires_at| {
        let (mut token, hash) = token(number, role, tenant);
        token.expires_at = expires_at;
        done(store.write(write(Effect::CreateToken(token.clone(), hash))).await);
        token
    };
    let admin = create(1, Role::Admin, None, None).await;
    let bound = create(2, Role::Viewer, Some("acme"), Some(at(60))).await;
    let other = create(3, Role::Publisher, Some("globex"), None).await;
    let list = async |tenant: Option<&str>, before: Option<&TokenId>| {
        store.tokens(tenant.map(Into::into).as_ref(), before, 10).await.unwrap()
    };
    assert_eq!(list(None, None).await, [other.clone(), bound.clone(), admin.clone()]);
    assert_eq!(list(None, Some(&other.id)).await, [bound.clone(), admin.clone()]);
    assert_eq!(list(Some("acme"), None).await, std::slice::from_ref(&bound));
    assert_eq!(store.token_of(&[2; 32]).await.unwrap(), Some(bound.clone()));
    assert_eq!(store.token_of(&[9; 32]).await.unwrap(), None);
    assert_eq!(store.token(&bound.id).await.unwrap(), Some(bound.clone()));
    let revoke = || write(Effect::RevokeToken(bound.id.clone(), at(5)));
    done(store.write(revoke()).await);
    let revoked = store.token_of(&[2; 32]).await.unwrap().unwrap();
    assert_eq!(revoked.revoked_at, Some(at(5)));
    assert!(!revoked.is_live(at(5)));
    assert_eq!(store.token(&bound.id).await.unwrap(), None);
    assert_eq!(list(None, None).await, [other, admin]);
    for absent in [revoke(), write(Effect::RevokeToken("nobody".into(), at(5)))] {
        let told = store.write(absent).await;
        assert!(matches!(told, Err(WriteError::NotFound)), "{told:?}");
    }
}

pub(in crate::tests) async fn the_last_token_stays(store: &Store) {
    for (number, role, tenant, expires_at) in [
        (1, Role::Admin, None, None),
        (2, Role::Admin, None, None),
        (3, Role::Admin, None, Some(at(5))),
        (4, Role::Admin, Some("acme"), None),
        (5, Role::Operator, None, None),
    ] {
        let (mut token, hash) = token(number, role, tenant);
        token.expires_at = expires_at;
        done(store.write(write(Effect::CreateToken(token, hash))).await);
    }
    let revoke = |number| write(Effect::RevokeToken(id(number).as_str().into(), at(10)));
    // Two at once: each would leave the other's.
    let (one, other) = tokio::join!(store.write(revoke(1)), store.write(revoke(2)));
    let last = [one, other].into_iter().filter(|told| matches!(told, Err(WriteError::LastToken)));
    assert_eq!(last.count(), 1);
    let live = store.tokens(None, None, 10).await.unwrap();
    assert!(live.iter().any(|token| token.tenant.is_none() && token.expires_at.is_none()));
    for number in [3, 4, 5] {
        done(store.write(revoke(number)).await);
    }
}

pub(in crate::tests) async fn the_first_token_is_made_once(store: &Store) {
    // Neither of these is a live admin of no tenant.
    for (number, role, tenant) in [(1, Role::Operator, None), (2, Role::Admin, Some("acme"))] {
        let (token, hash) = token(number, role, tenant);
        done(store.write(write(Effect::CreateToken(token, hash))).await);
    }
    // Nor is one that has ended, and it is no way back in.
    let (mut ended, hash) = token(6, Role::Admin, None);
    ended.expires_at = Some(jiff::Timestamp::UNIX_EPOCH);
    done(store.write(write(Effect::CreateToken(ended, hash))).await);
    let first = async |number| {
        let (token, hash) = token(number, Role::Admin, None);
        store.first_token(token, hash, entry("tokens.create", "/v1/tokens")).await.unwrap()
    };
    assert!(!first(6).await);
    let (one, other) = tokio::join!(first(3), first(4));
    assert!(one != other, "{one} {other}");
    assert!(!first(5).await);
    let all = AuditQuery { limit: 10, ..AuditQuery::default() };
    assert_eq!(store.audit(&all).await.unwrap().len(), 4, "with an audit entry, once");
}
